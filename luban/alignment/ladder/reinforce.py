"""Rung 1, REINFORCE: make an action likelier by what its whole trajectory was worth.

    grad J = E[ sum_t grad log pi(a_t | s_t) * R ],   R = sum_t r_t

No model of the world is needed, only samples; but one number praises or blames every action of a trajectory, so the
estimate, though right on average, is noisy.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def total_returns(rewards: Float[Tensor, "batch seq"]) -> Float[Tensor, "batch seq"]:
    """Each trajectory's sum of rewards, at every one of its actions."""
    return rewards.sum(1, keepdim=True).expand_as(rewards)


def policy_gradient_loss(
    logps: Float[Tensor, "batch seq"], weights: Float[Tensor, "batch seq"]
) -> Float[Tensor, "batch seq"]:
    """Each action's loss, whose gradient is `-grad logp * weight`; nothing flows into `weights`.

    Source: Williams 1992, theorem 1.
    """
    return -logps * weights.detach()
