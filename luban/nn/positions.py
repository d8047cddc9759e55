"""Where a token stands: by rotation (RoPE, xPos), by a bias on scores (ALiBi), by waves in the embedding.

The angles of all positions in a forward pass are computed once and handed to every block. There is no table
and so no largest position; speeds are plain floats, so that no dtype or device move of a model can blunt them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from luban.nn.passes import turn
from luban.nn.rope_scaling import RopeScaling, dynamic_speeds, rotation_speeds

Rotation = tuple[Tensor, Tensor]
"""Cosines, and sines with their first half negated: each [batch, 1, seq, head_dim]."""


class Rotary:
    """Makes the rotation of given positions; holds no tensors.

    With `dynamic` scaling a row's speeds follow from its largest position, and keys cached before keep the speeds
    of their time, here as in transformers: beyond the old context, decoding is not quite one long pass.
    """

    def __init__(self, head_dim: int, *, theta: float, scaling: RopeScaling | None = None) -> None:
        self.head_dim, self.theta = head_dim, theta
        self.speeds: list[float] = rotation_speeds(head_dim, theta, scaling).tolist()
        self.strength = 1.0 if scaling is None else scaling.strength
        self.dynamic = scaling if scaling is not None and scaling.kind == "dynamic" else None

    def __call__(self, positions: Int[Tensor, "batch seq"], dtype: torch.dtype) -> Rotation:
        """Cosines and sines in `dtype`, computed in float32."""
        angles = positions[:, None, :, None].float() * self._speeds(positions)  # [batch, 1, seq, half]
        cos, sin = angles.cos(), angles.sin()
        if self.strength != 1.0:
            cos, sin = cos * self.strength, sin * self.strength
        return torch.cat((cos, cos), -1).to(dtype), torch.cat((-sin, sin), -1).to(dtype)

    def _speeds(self, positions: Int[Tensor, "batch seq"]) -> Float[Tensor, "... half"]:
        if self.dynamic is None:
            return torch.tensor(self.speeds, dtype=torch.float32, device=positions.device)
        lengths = positions.amax(1).float() + 1
        return dynamic_speeds(self.head_dim, self.theta, self.dynamic, lengths)[:, None, None]


class XPos:
    """Rotation for queries and for keys apart: what a query gains with its place, a key loses.

    Their score then still depends only on their distance, and fades with it, slow pairs slowest. Keys grow
    without bound in float32 up to position 35,000 with the default `scale_base` (tokens per power of the decay);
    for longer texts take a larger one.

    Source: Sun et al. 2022, algorithm 1 (arXiv:2212.10554).
    """

    def __init__(
        self, head_dim: int, *, theta: float = 10000.0, scale_base: float = 512.0, gamma: float = 0.4
    ) -> None:
        self.rotary = Rotary(head_dim, theta=theta)
        self.scale_base = scale_base
        half = head_dim // 2
        self.decays = [(pair / half + gamma) / (1 + gamma) for pair in range(half)]

    def __call__(self, positions: Int[Tensor, "batch seq"], dtype: torch.dtype) -> tuple[Rotation, Rotation]:
        """The rotation of queries and the rotation of keys, each for `rotate`."""
        cos, sin = self.rotary(positions, torch.float32)
        decays = torch.tensor(self.decays * 2, dtype=torch.float32, device=positions.device)
        scales = decays ** (positions[:, None, :, None].float() / self.scale_base)
        queries = (cos * scales).to(dtype), (sin * scales).to(dtype)
        return queries, ((cos / scales).to(dtype), (sin / scales).to(dtype))


def rotate(
    x: Float[Tensor, "batch heads seq head_dim"], rotation: Rotation
) -> Float[Tensor, "batch heads seq head_dim"]:
    """Turn number i of each head together with number i + head_dim/2.

    Source: Su et al. 2021, eq. 34 (arXiv:2104.09864), with pairs split in halves as LLaMA's weights expect.
    """
    return turn(x, *rotation)


class Alibi(nn.Module):
    """A `Bias` that grows with distance, each head at its own slope; for causal attention. No weights.

    Source: Press et al. 2022, section 3 (arXiv:2108.12409).
    """

    def __init__(self, slopes: Sequence[float]) -> None:
        super().__init__()
        self.slopes = tuple(slopes)

    def forward(self, distances: Int[Tensor, "new end"]) -> Float[Tensor, "heads new end"]:
        return torch.tensor(self.slopes, device=distances.device)[:, None, None] * -distances


def alibi(heads: int) -> Alibi:
    """The penalty of `heads` heads, at the slopes of `alibi_slopes`."""
    return Alibi(alibi_slopes(heads))


def alibi_slopes(heads: int) -> list[float]:
    """`2**(-8 i/heads)` for i = 1, 2, ..., heads; where `heads` is no power of 2, the next lower power's slopes
    and then every second one of the next higher power's.

    Source: Press et al. 2022, section 3, and their reference code for the latter (arXiv:2108.12409).
    """
    lower = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8 * i / lower) for i in range(1, lower + 1)]
    between = [2.0 ** (-8 * i / (2 * lower)) for i in range(1, 2 * lower, 2)]
    return slopes + between[: heads - lower]


def sinusoids(positions: Int[Tensor, "batch seq"], dim: int) -> Float[Tensor, "batch seq dim"]:
    """What is added to the embeddings at `positions`: sines in even places, cosines in odd ones, in float32.

    Source: Vaswani et al. 2017, section 3.5 (arXiv:1706.03762).
    """
    speeds = 10000.0 ** (-torch.arange(0, dim, 2, device=positions.device).float() / dim)
    angles = positions[..., None].float() * speeds  # [batch, seq, half]
    return torch.stack((angles.sin(), angles.cos()), -1).flatten(-2)
