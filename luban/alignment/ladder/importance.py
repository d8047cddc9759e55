"""Rung 6, importance sampling: learn about one policy from what another one did.

    E_p[f] = E_q[ (p / q) f ]

Without bias wherever q can do what p does, but its variance grows with the distance of the two: E_q[(p/q)^2] - 1 is
the chi-squared divergence. Dividing by the weights' own sum trades some bias for less variance.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def ratios(new_logps: Float[Tensor, "*shape"], old_logps: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """How much likelier each action is under the new policy than under the one that took it: p / q."""
    return torch.exp(new_logps - old_logps.detach())


def estimate(values: Float[Tensor, " samples"], weights: Float[Tensor, " samples"]) -> Float[Tensor, ""]:
    """The mean of `values` under the new policy, from samples of the old: no bias."""
    return (weights * values).mean()


def normalised_estimate(
    values: Float[Tensor, " samples"], weights: Float[Tensor, " samples"]
) -> Float[Tensor, ""]:
    """The same with weights that sum to 1: a bias of order 1/samples, and never beyond the values seen."""
    return (weights * values).sum() / weights.sum()


def effective_samples(weights: Float[Tensor, " samples"]) -> Float[Tensor, ""]:
    """How many samples of the new policy itself would tell as much: (sum w)^2 / sum w^2.

    Source: Kong 1992.
    """
    return weights.sum() ** 2 / (weights**2).sum()


def surrogate_loss(
    new_logps: Float[Tensor, "batch seq"],
    old_logps: Float[Tensor, "batch seq"],
    advantages: Float[Tensor, "batch seq"],
) -> Float[Tensor, "batch seq"]:
    """Each action's loss `-ratio * advantage`; where both policies are one, its gradient is REINFORCE's.

    Source: Schulman et al. 2017, eq. 6 (arXiv:1707.06347).
    """
    return -ratios(new_logps, old_logps) * advantages.detach()
