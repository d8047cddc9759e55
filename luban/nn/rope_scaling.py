"""How fast each pair of a rotary head turns, and how that is slowed for contexts longer than the pretrained one.

Every way of scaling is a map from speeds to speeds; `positions.Rotary` turns by what comes out. NTK-aware scaling
(one larger base, fixed) has no kind of its own: `ntk_theta` gives that base, to be used as `theta`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt
from jaxtyping import Float
from torch import Tensor

from luban.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How rotation speeds are slowed for contexts longer than the pretrained one."""

    kind: Literal["linear", "dynamic", "yarn", "llama3"]
    """`linear` slows all pairs alike; `dynamic` by as much as the text at hand needs; `yarn` and `llama3` only
    those too slow to turn within the old context."""
    factor: Annotated[float, Ge(1)]
    """How many times longer the context is to be."""
    original_context: Annotated[int, Ge(1)] = 8192
    """The context of pretraining, in tokens (not for linear)."""
    low_freq_factor: float = 1.0
    """llama3: pairs that turn less often than this in the old context get the full factor."""
    high_freq_factor: float = 4.0
    """llama3: pairs that turn more often than this keep their speed; those between are blended."""
    beta_fast: Annotated[float, Gt(0)] = 32.0
    """yarn: pairs that turn more often than this in the old context keep their speed."""
    beta_slow: Annotated[float, Gt(0)] = 1.0
    """yarn: pairs that turn less often than this get the full factor; those between are blended."""
    attention_factor: Annotated[float, Gt(0)] | None = None
    """yarn: queries and keys grow by this; none means `0.1 ln(factor) + 1`."""

    def __post_init__(self) -> None:
        if self.beta_fast <= self.beta_slow:
            raise ModelError(f"beta_fast {self.beta_fast} is not above beta_slow {self.beta_slow}")
        if self.high_freq_factor <= self.low_freq_factor:
            told = f"high_freq_factor {self.high_freq_factor} is not above low_freq_factor"
            raise ModelError(f"{told} {self.low_freq_factor}")

    @property
    def longest(self) -> int:
        """The longer context, in tokens."""
        return round(self.factor * self.original_context)

    @property
    def strength(self) -> float:
        """What queries and keys are multiplied by, to make up for flatter attention over more tokens.

        Source: Peng et al. 2023, eq. 22 (arXiv:2309.00071); 1 in all other kinds.
        """
        if self.kind != "yarn":
            return 1.0
        return 0.1 * math.log(self.factor) + 1.0 if self.attention_factor is None else self.attention_factor


def rotation_speeds(
    head_dim: int, theta: float, scaling: RopeScaling | None = None
) -> Float[Tensor, " half"]:
    """Radians per position of each pair; `dynamic` leaves them as they are up to the old context.

    Source: Su et al. 2021, section 3.2.2 (arXiv:2104.09864).
    """
    # In float32 on the CPU, as checkpoints were trained: other roundings drift apart at far positions.
    pairs = torch.arange(0, head_dim, 2, dtype=torch.int64, device="cpu").float()
    speeds = 1.0 / (theta ** (pairs / head_dim))
    if scaling is None or scaling.kind == "dynamic":
        return speeds
    if scaling.kind == "linear":  # Chen et al. 2023 (arXiv:2306.15595)
        return speeds / scaling.factor
    slowed = (
        _llama3_share(speeds, scaling) if scaling.kind == "llama3" else _yarn_share(theta, head_dim, scaling)
    )
    return slowed * (speeds / scaling.factor) + (1 - slowed) * speeds


def ntk_theta(theta: float, stretch: Any, head_dim: int) -> Any:
    """The base with which the slowest pair turns `stretch` times slower and the fastest as before.

    `stretch` is a number, or a tensor of numbers for as many bases.

    Source: bloc97 2023, "NTK-Aware Scaled RoPE"; Peng et al. 2023, eq. 16 (arXiv:2309.00071).
    """
    return theta * stretch ** (head_dim / (head_dim - 2))


def dynamic_speeds(
    head_dim: int, theta: float, scaling: RopeScaling, lengths: Float[Tensor, " batch"]
) -> Float[Tensor, "batch half"]:
    """Speeds for rows of so many tokens: NTK-aware, stretched no more than a row's length asks for.

    Source: emozilla 2023, "Dynamically Scaled RoPE"; Peng et al. 2023, section 3.3 (arXiv:2309.00071).
    """
    stretch = scaling.factor * lengths / scaling.original_context - (scaling.factor - 1)
    bases = ntk_theta(theta, stretch.clamp(min=1), head_dim)
    pairs = torch.arange(0, head_dim, 2, device=lengths.device).float()
    return 1.0 / bases[:, None] ** (pairs / head_dim)


def _llama3_share(speeds: Float[Tensor, " half"], scaling: RopeScaling) -> Float[Tensor, " half"]:
    """How far each pair is slowed, 0 to 1, by how often it turns in the old context.

    Source: Llama 3.1's reference code.
    """
    turns = scaling.original_context / (2 * math.pi / speeds)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    return 1 - ((turns - low) / (high - low)).clamp(0, 1)


def _yarn_share(theta: float, head_dim: int, scaling: RopeScaling) -> Float[Tensor, " half"]:
    """How far each pair is slowed, 0 to 1: a ramp over the pairs' numbers, its ends rounded outwards.

    Source: Peng et al. 2023, eq. 17-21 (arXiv:2309.00071), as its reference code rounds them.
    """

    def pair_turning(times: float) -> float:
        return head_dim * math.log(scaling.original_context / (times * 2 * math.pi)) / (2 * math.log(theta))

    first = max(math.floor(pair_turning(scaling.beta_fast)), 0)
    last = min(math.ceil(pair_turning(scaling.beta_slow)), head_dim - 1)
    pairs = torch.arange(head_dim // 2, dtype=torch.float32, device="cpu")
    return ((pairs - first) / ((last - first) or 0.001)).clamp(0, 1)
