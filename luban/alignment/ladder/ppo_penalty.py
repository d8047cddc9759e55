"""Rung 7, PPO with a penalty: pay for every step away from the policy that acted, and adapt the price.

    loss = -ratio * A + beta * KL(old || new)

How large beta must be nobody knows beforehand: after each round it grows where the policy moved too far and shrinks
where it moved too little.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from luban.alignment.ladder.importance import surrogate_loss


def kl_of_samples(
    new_logps: Float[Tensor, "*shape"], old_logps: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """KL(old || new) as each action, drawn from old, tells it: `ratio - 1 - log ratio`, never negative.

    Source: Schulman 2020, "Approximating KL divergence", k3.
    """
    log_ratio = new_logps - old_logps
    return torch.expm1(log_ratio) - log_ratio


def penalty_loss(
    new_logps: Float[Tensor, "batch seq"],
    old_logps: Float[Tensor, "batch seq"],
    advantages: Float[Tensor, "batch seq"],
    *,
    beta: float,
) -> Float[Tensor, "batch seq"]:
    """Each action's loss, the price of its step included.

    Source: Schulman et al. 2017, eq. 8 (arXiv:1707.06347).
    """
    return surrogate_loss(new_logps, old_logps, advantages) + beta * kl_of_samples(
        new_logps, old_logps.detach()
    )


class DoublingKL:
    """A coefficient that doubles where the KL is above 1.5 times its target, and halves where it is below 2/3.

    Source: Schulman et al. 2017, section 4 (arXiv:1707.06347).
    """

    def __init__(self, coefficient: float, *, target: float) -> None:
        self.coefficient, self.target = coefficient, target

    def see(self, kl: float) -> None:
        """Adapt to the KL that a round has led to."""
        if kl > 1.5 * self.target:
            self.coefficient *= 2
        elif kl < self.target / 1.5:
            self.coefficient /= 2


class ProportionalKL:
    """A coefficient that follows the KL's relative error, at most a fifth of it, over `horizon` answers.

    Source: Ziegler et al. 2019, section 2.2 (arXiv:1909.08593).
    """

    def __init__(self, coefficient: float, *, target: float, horizon: int) -> None:
        self.coefficient, self.target, self.horizon = coefficient, target, horizon

    def see(self, kl: float, *, answers: int) -> None:
        """Adapt to the mean KL of `answers` whole answers; a target of 0 leaves the coefficient as it is."""
        if self.target:
            error = min(0.2, max(-0.2, kl / self.target - 1))
            self.coefficient *= 1 + error * answers / self.horizon

    def state(self) -> float:
        """The coefficient; `restore` goes on from here."""
        return self.coefficient

    def restore(self, state: float) -> None:
        """Go on where `state` was taken."""
        self.coefficient = state
