"""Held-out loss during training: always the same few batches, the same objective, no gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice
from typing import Any

import torch

from luban.data.loader import Loader
from luban.training.loop import Validate
from luban.training.parallel.world import ALONE, World
from luban.training.step import Objective, Step


def held_out_loss(
    model: Any,
    loader: Loader,
    objective: Objective,
    *,
    batches: int,
    tokens_per_byte: float | None = None,
    world: World = ALONE,
) -> Validate:
    """A function that gives `val/loss` (nats per target) and, for raw text, `val/bpb` (bits per byte of UTF-8).

    It asks `always_the_same`. Where `world` has several copies, `loader` gives each its share of the rows, and the
    sums are everyone's.
    """
    ask = always_the_same(model, loader, objective, batches=batches, world=world)

    def validate() -> dict[str, float]:
        steps = ask()
        total, targets = world.total(
            sum(step.loss.item() for step in steps), sum(step.targets for step in steps)
        )
        loss = total / targets
        if tokens_per_byte is None:
            return {"val/loss": loss}
        return {"val/loss": loss, "val/bpb": loss / math.log(2) * tokens_per_byte}

    return validate


def always_the_same(
    model: Any, loader: Loader, objective: Objective, *, batches: int, world: World
) -> Callable[[], list[Step]]:
    """A function that asks `objective` of the first `batches` of `loader`, without gradients, dropout and noise.

    The batches are taken now and kept, so that every validation sees the same rows; what an objective draws at
    random (masks) is the same each time too, and the run's own stream is left alone.
    """
    kept = list(islice(loader, batches))
    device = next(model.parameters()).device

    @torch.no_grad()
    def ask() -> list[Step]:
        model.eval()  # each step of training says `train` again
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(world.place("dp"))
            return [objective(model, batch.to(device)) for batch in kept]

    return ask
