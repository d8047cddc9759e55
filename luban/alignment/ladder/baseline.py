"""Rung 2, a baseline: praise only what was better than expected.

    grad J = E[ sum_t grad log pi(a_t | s_t) * (R - b) ]

Right on average for every b that does not look at the action, since E[grad log pi] = 0; less noisy where b is near
what is to be expected.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def leave_one_out(returns: Float[Tensor, "group samples"]) -> Float[Tensor, "group samples"]:
    """For each sample the mean return of the others in its group: a baseline that its own action cannot move.

    Source: Kool et al. 2019, eq. 8 (RLOO). Raises ValueError for groups of one, which have no others.
    """
    samples = returns.shape[1]
    if samples < 2:
        raise ValueError("a group of one has no others to compare with")
    return (returns.sum(1, keepdim=True) - returns) / (samples - 1)


class RunningBaseline:
    """The mean of all returns seen so far, or with `decay` of the recent ones."""

    def __init__(self, decay: float = 1.0) -> None:
        self.decay = decay
        self.total, self.count = 0.0, 0.0

    def __call__(self, returns: Float[Tensor, " batch"]) -> float:
        """The baseline for `returns`, of those before them only; 0 at first."""
        before = self.total / self.count if self.count else 0.0
        self.total = self.decay * self.total + float(returns.sum())
        self.count = self.decay * self.count + torch.numel(returns)
        return before
