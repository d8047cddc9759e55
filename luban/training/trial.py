"""A training step on random tokens, to be timed: what profiles and tuning run."""

from __future__ import annotations

from typing import Any

import torch

from luban.data.batch import Batch
from luban.training.config import OptimizerConfig
from luban.training.optim import adamw
from luban.training.step import Accumulated, Objective, Updater, next_token

DOCUMENTS = 3
"""Documents in a row: packed, as pretraining has them."""


def random_batch(vocab: int, *, rows: int, length: int, device: torch.device) -> Batch:
    """Rows of random tokens, each of `DOCUMENTS` documents of about one length."""
    tokens = torch.randint(0, vocab, (rows, length + 1))
    documents = torch.arange(length) * DOCUMENTS // length
    positions = torch.arange(length) - torch.searchsorted(documents, documents)
    batch = Batch(
        tokens=tokens[:, :-1].contiguous(),
        targets=tokens[:, 1:].contiguous(),
        positions=positions.expand(rows, length).contiguous(),
        documents=documents.expand(rows, length).contiguous(),
        ids=[],
        packed=True,
    )
    return batch.to(device)


def updater(model: Any, objective: Objective | None = None) -> Updater:
    """The loop's own updater for `model`, next-token prediction unless told otherwise."""
    gradients = Accumulated(model, objective or next_token())
    return Updater(adamw(model, OptimizerConfig()), gradients, max_grad_norm=1.0)
