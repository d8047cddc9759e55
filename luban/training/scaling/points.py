"""One finished run of a grid as numbers: what the fits, tables and pictures read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from luban.training.scaling.law import FLOPS_PER_WEIGHT


@dataclass(frozen=True, kw_only=True)
class Point:
    """A model of one size, trained with one budget."""

    size: str
    """LAYERSxDIM."""
    seed: int
    budget: float
    """FLOPs that the run was given; `flops` is what whole steps made of it."""
    weights: int
    """N: weights that multiply each token, those of all blocks and of the head."""
    body: int
    """The same without the head."""
    tokens: int
    """D: training tokens."""
    flops: float
    """C: forward and backward, attention included (luban/training/flops.py)."""
    loss: float
    """Held-out, nats per token."""
    bits_per_byte: float
    tokens_per_second: float
    epochs: float
    """Times the run went through the training text."""

    @property
    def flops_6nd(self) -> float:
        """The same compute as the papers count it: 6ND, without attention."""
        return FLOPS_PER_WEIGHT * self.weights * self.tokens

    @property
    def tokens_per_weight(self) -> float:
        return self.tokens / self.weights


def frontier(points: Sequence[Point]) -> list[Point]:
    """The run of lowest loss for each budget, from the smallest budget to the largest."""
    budgets = sorted({point.budget for point in points})
    return [
        min((point for point in points if point.budget == budget), key=lambda point: point.loss)
        for budget in budgets
    ]


def frontier_falls(points: Sequence[Point]) -> bool:
    """Whether each budget's best run is better than that of every smaller budget."""
    losses = [point.loss for point in frontier(points)]
    return all(later < earlier for earlier, later in pairwise(losses))
