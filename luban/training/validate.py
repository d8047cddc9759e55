"""Held-out loss during training: always the same few batches, the same objective, no gradients."""

from __future__ import annotations

import math
from itertools import islice
from typing import Any

import torch

from luban.data.loader import Loader
from luban.training.loop import Validate
from luban.training.step import Objective


def held_out_loss(
    model: Any, loader: Loader, objective: Objective, *, batches: int, tokens_per_byte: float | None = None
) -> Validate:
    """A function that gives `val/loss` (nats per target) and, for raw text, `val/bpb` (bits per byte of UTF-8).

    The first `batches` of `loader` are taken now and kept, so that every validation sees the same rows; what an
    objective draws at random (masks, noise) is the same each time too, and the run's own stream is left alone.
    """
    kept = list(islice(loader, batches))
    device = model.embedding.weight.device

    @torch.no_grad()
    def validate() -> dict[str, float]:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(0)
            steps = [objective(model, batch.to(device)) for batch in kept]
        loss = sum(step.loss.item() for step in steps) / sum(step.targets for step in steps)
        if tokens_per_byte is None:
            return {"val/loss": loss}
        return {"val/loss": loss, "val/bpb": loss / math.log(2) * tokens_per_byte}

    return validate
