"""Rung 3, reward-to-go and discount: an action answers only for what came after it, and less for what came late.

G_t = r_t + gamma r_{t+1} + gamma^2 r_{t+2} + ...
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def rewards_to_go(rewards: Float[Tensor, "batch seq"], *, gamma: float = 1.0) -> Float[Tensor, "batch seq"]:
    """For each action the sum of rewards from it on, each later step counting `gamma` times as much.

    Source: Sutton and Barto 2018, eq. 3.8.
    """
    later = torch.zeros_like(rewards[:, 0])
    sums: list[Tensor] = []
    for now in rewards.unbind(1)[::-1]:
        later = now + gamma * later
        sums.append(later)
    return torch.stack(sums[::-1], 1)
