"""Rung 4, actor-critic: a critic V learns what to expect of a state, and stands in for rewards not waited for.

k steps       G_t = r_t + gamma r_{t+1} + ... + gamma^(k-1) r_{t+k-1} + gamma^k V(s_{t+k})
TD            k = 1: little noise, as wrong as the critic
Monte Carlo   k at least the length: no bias, all the noise
advantage     A_t = G_t - V(s_t)
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def k_step_returns(
    rewards: Float[Tensor, "batch seq"], values: Float[Tensor, "batch seq"], *, k: int, gamma: float = 1.0
) -> Float[Tensor, "batch seq"]:
    """`k` rewards from each action on, then what the critic expects; the value after the last action is 0.

    Source: Sutton and Barto 2018, eq. 7.1.
    """
    seq = rewards.shape[1]
    returns = torch.zeros_like(rewards)
    for ahead in range(min(k, seq)):
        returns[:, : seq - ahead] += gamma**ahead * rewards[:, ahead:]
    if k < seq:
        returns[:, : seq - k] += gamma**k * values[:, k:]
    return returns


def td_returns(
    rewards: Float[Tensor, "batch seq"], values: Float[Tensor, "batch seq"], *, gamma: float = 1.0
) -> Float[Tensor, "batch seq"]:
    """`r_t + gamma V(s_{t+1})`: one real reward, the rest from the critic."""
    return k_step_returns(rewards, values, k=1, gamma=gamma)


def critic_loss(
    values: Float[Tensor, "batch seq"], returns: Float[Tensor, "batch seq"]
) -> Float[Tensor, "batch seq"]:
    """Half the squared distance of each value from its return; nothing flows into `returns`."""
    return 0.5 * (values - returns.detach()) ** 2
