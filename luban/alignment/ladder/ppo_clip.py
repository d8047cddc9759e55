"""Rung 8, PPO with a clip: no gain from going further than a little away from the policy that acted.

    loss = -min( ratio * A, clip(ratio, 1 - low, 1 + high) * A )

                      ratio < 1 - low     within            ratio > 1 + high
    A > 0 (do more)   ratio * A           ratio * A         (1 + high) * A: no gradient
    A < 0 (do less)   (1 - low) * A: no gradient   ratio * A   ratio * A

The minimum makes the bound one-sided: what went the wrong way may always come back.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from luban.alignment.ladder.importance import ratios


def clipped_loss(
    new_logps: Float[Tensor, "batch seq"],
    old_logps: Float[Tensor, "batch seq"],
    advantages: Float[Tensor, "batch seq"],
    *,
    low: float,
    high: float,
) -> Float[Tensor, "batch seq"]:
    """Each action's loss; `high` above `low` leaves unlikely actions more room to grow.

    Source: Schulman et al. 2017, eq. 7 (arXiv:1707.06347); "clip higher", Yu et al. 2025, eq. 10 (arXiv:2503.14476).
    """
    ratio, advantages = ratios(new_logps, old_logps), advantages.detach()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


def bound(
    new_logps: Float[Tensor, "batch seq"],
    old_logps: Float[Tensor, "batch seq"],
    advantages: Float[Tensor, "batch seq"],
    *,
    low: float,
    high: float,
) -> Bool[Tensor, "batch seq"]:
    """Where the clip decides, so that an action gives no gradient."""
    ratio = ratios(new_logps, old_logps)
    return ((ratio > 1 + high) & (advantages > 0)) | ((ratio < 1 - low) & (advantages < 0))


def clipped_value_loss(
    values: Float[Tensor, "batch seq"],
    old_values: Float[Tensor, "batch seq"],
    returns: Float[Tensor, "batch seq"],
    *,
    clip: float,
) -> Float[Tensor, "batch seq"]:
    """Half the squared error of the value or of the value held within `clip` of the old one, whichever is larger.

    Source: Schulman's implementation; Zheng et al. 2023, section 5.3.3 (arXiv:2307.04964).
    """
    returns, old_values = returns.detach(), old_values.detach()
    held = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (held - returns) ** 2)
