"""Where a token stands, told by rotation (RoPE): each pair of a head's numbers turns at its own speed.

The angles of all positions in a forward pass are computed once and handed to every block. There is no table
and so no largest position; speeds are plain floats, so that no dtype or device move of a model can blunt them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Rotation = tuple[Tensor, Tensor]
"""Cosines, and sines with their first half negated: each [batch, 1, seq, head_dim]."""


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How rotation speeds are slowed for contexts longer than the pretrained one."""

    kind: Literal["linear", "llama3"]
    """`linear` slows all pairs alike; `llama3` only those too slow to turn within the old context."""
    factor: float
    """How many times slower."""
    low_freq_factor: float = 1.0
    """llama3: pairs that turn less often than this in the old context get the full factor."""
    high_freq_factor: float = 4.0
    """llama3: pairs that turn more often than this keep their speed; those between are blended."""
    original_context: int = 8192
    """llama3: the context of pretraining, in tokens."""


class Rotary:
    """Makes the rotation of given positions; holds no tensors."""

    def __init__(self, head_dim: int, *, theta: float, scaling: RopeScaling | None = None) -> None:
        # In float32 on the CPU, as checkpoints were trained: other roundings drift apart at far positions.
        pairs = torch.arange(0, head_dim, 2, dtype=torch.int64, device="cpu").float()
        speeds = 1.0 / (theta ** (pairs / head_dim))
        self.speeds: list[float] = _slowed(speeds, scaling).tolist()

    def __call__(self, positions: Int[Tensor, "batch seq"], dtype: torch.dtype) -> Rotation:
        """Cosines and sines in `dtype`, computed in float32."""
        speeds = torch.tensor(self.speeds, dtype=torch.float32, device=positions.device)
        angles = positions[:, None, :, None].float() * speeds  # [batch, 1, seq, half]
        cos, sin = angles.cos(), angles.sin()
        return torch.cat((cos, cos), -1).to(dtype), torch.cat((-sin, sin), -1).to(dtype)


def rotate(
    x: Float[Tensor, "batch heads seq head_dim"], rotation: Rotation
) -> Float[Tensor, "batch heads seq head_dim"]:
    """Turn number i of each head together with number i + head_dim/2.

    Source: Su et al. 2021, eq. 34 (arXiv:2104.09864), with pairs split in halves as LLaMA's weights expect.
    """
    cos, signed_sin = rotation
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), signed_sin)


def _slowed(speeds: Float[Tensor, " half"], scaling: RopeScaling | None) -> Float[Tensor, " half"]:
    """The speeds after scaling.

    Source: Chen et al. 2023 (arXiv:2306.15595) for linear; Llama 3.1's reference code for llama3.
    """
    if scaling is None:
        return speeds
    if scaling.kind == "linear":
        return speeds / scaling.factor
    turns = scaling.original_context / (2 * math.pi / speeds)  # full turns within the old context
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - kept) * speeds / scaling.factor + kept * speeds
