"""Rung 5, generalised advantage estimation: all k-step advantages at once, later ones fading.

delta_t = r_t + gamma V(s_{t+1}) - V(s_t)
A_t     = delta_t + (gamma lam) delta_{t+1} + (gamma lam)^2 delta_{t+2} + ...
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from luban.alignment.ladder.rewards_to_go import rewards_to_go


def gae(
    rewards: Float[Tensor, "batch seq"], values: Float[Tensor, "batch seq"], *, gamma: float, lam: float
) -> Float[Tensor, "batch seq"]:
    """Weigh each step's surprise and all later ones, fading by `gamma * lam` a step.

    The value after the last action is 0; so are rewards and values behind a trajectory's end. `lam=0` is one-step
    TD (little noise, as wrong as the critic), `lam=1` Monte Carlo (no bias, all the noise).

    Source: Schulman et al. 2016, eq. 16 (arXiv:1506.02438).
    """
    after = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], 1)
    surprises = rewards + gamma * after - values
    return rewards_to_go(surprises, gamma=gamma * lam)


def whitened(
    advantages: Float[Tensor, "batch seq"], there: Bool[Tensor, "batch seq"]
) -> Float[Tensor, "batch seq"]:
    """Advantages shifted and scaled to mean 0 and variance 1 over the places that are `there`; 0 elsewhere.

    Source: engineering practice of PPO; Zheng et al. 2023, section 5.3.1 (arXiv:2307.04964).
    """
    real = advantages[there]
    spread = real.std(correction=0) if real.numel() > 1 else torch.ones(())
    return torch.where(there, (advantages - real.mean()) / (spread + 1e-8), 0.0)
