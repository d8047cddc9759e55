"""Several models of one shape made one, weight by weight: means, and sums of what each learnt over a base.

A change is a model minus the base they all began as. Models of one base can be averaged or added because they stand
in one valley of the loss; models of different ones cannot.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Weights = Sequence[Tensor]
"""One weight of each model."""


def mean(weights: Weights, shares: Sequence[float]) -> Tensor:
    """The mean, each model counted by its share.

    Source: Wortsman et al. 2022, model soups (arXiv:2203.05482).
    """
    total = torch.zeros_like(weights[0], dtype=torch.float32)
    for share, weight in zip(shares, weights, strict=True):
        total += share * weight.float()
    return total / sum(shares)


def task_arithmetic(base: Tensor, weights: Weights, shares: Sequence[float]) -> Tensor:
    """The base and all changes, each times its share.

    Source: Ilharco et al. 2023, section 4.2 (arXiv:2212.04089); a negative share forgets.
    """
    base = base.float()
    whole = base.clone()
    for share, weight in zip(shares, weights, strict=True):
        whole += share * (weight.float() - base)
    return whole


def ties(base: Tensor, weights: Weights, shares: Sequence[float], floors: Sequence[float]) -> Tensor:
    """The base and the mean of those changes that agree in sign, the small ones left out.

    `floors` has for each model the size from which on a change counts (`floor`). The sign of each number is that of
    the sum; the mean is over the models that changed it that way.

    Source: Yadav et al. 2023, algorithm 1 (arXiv:2306.01708); shares weigh both the vote and the mean.
    """
    base = base.float()
    changes = torch.stack([weight.float() - base for weight in weights])
    limits = torch.tensor(floors, device=base.device).view(-1, *[1] * base.ndim)
    counts = torch.tensor(shares, device=base.device).view(limits.shape)
    changes = changes * (changes.abs() >= limits)
    elected = (counts * changes).sum(0).sign()
    agreeing = (changes.sign() == elected) & (changes != 0)
    voices = (counts * agreeing).sum(0)
    return base + (counts * changes * agreeing).sum(0) / voices.where(voices != 0, torch.ones_like(voices))


def floor(changes: Sequence[Tensor], density: float) -> float:
    """The size that the share `density` of all numbers in `changes` reaches."""
    sizes = torch.cat([change.abs().flatten() for change in changes])
    return float(sizes.kthvalue(len(sizes) - max(1, round(density * len(sizes))) + 1).values)
