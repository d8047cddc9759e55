"""A batch: what one step of training sees, with everything that packing needs to stay exact.

The loader makes them; objectives read them. Rows may hold several documents: `positions` restart and
`documents` changes at each border, and no target reaches over it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

IGNORED = -100
"""The target of a token that nothing is learned from (PyTorch's `ignore_index`)."""


class Origin(NamedTuple):
    """A document by the name of its source and its number in there."""

    source: str
    document: int

    def __str__(self) -> str:
        return f"{self.source} #{self.document}"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows of tokens with their targets, all int64."""

    tokens: Int[Tensor, "batch seq"]
    targets: Int[Tensor, "batch seq"]
    """`targets[t]` is what follows `tokens[t]` (already shifted), or `IGNORED`."""
    positions: Int[Tensor, "batch seq"]
    """Place of each token in its row's piece of document, from 0."""
    documents: Int[Tensor, "batch seq"]
    """Ordinal, in its row, of the document a token belongs to; padding has the next one of its own."""
    ids: list[Origin]
    """Where each piece of document came from, row by row (to name a bad batch)."""
    packed: bool
    """Whether any row holds more than one document, so that attention must keep them apart."""

    @property
    def target_count(self) -> int:
        """Tokens that are learned: what to divide a summed loss by. 0 is possible in the last batch."""
        return int((self.targets != IGNORED).sum())

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`."""
        moved = {
            name: getattr(self, name).to(device, non_blocking=True)
            for name in ("tokens", "targets", "positions", "documents")
        }
        return dataclasses.replace(self, **moved)
