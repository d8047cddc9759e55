"""PPO's own settings: each a switch that can be turned off, with the default that keeps a run steady. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le


@dataclass(frozen=True, kw_only=True)
class ShapingConfig:
    """From scores to rewards."""

    kl_coef: Annotated[float, Ge(0)] = 0.05
    """Price of a nat between policy and reference, in every token's reward."""
    kl_target: Annotated[float, Ge(0)] = 0.0
    """Change the price so that an answer's KL, in nats, stays near this; 0 keeps the price."""
    kl_horizon: Annotated[int, Ge(1)] = 10_000
    """Answers over which the price follows its target."""
    scaling: Literal["none", "scale", "normalise"] = "normalise"
    """Divide scores by the running deviation of all until now (`scale`), after taking off the running mean
    (`normalise`)."""
    clip: Annotated[float, Ge(0)] = 5.0
    """Largest size of a scaled score; 0 clips none."""


@dataclass(frozen=True, kw_only=True)
class AdvantageConfig:
    """From rewards to what each token was worth."""

    gamma: Annotated[float, Ge(0), Le(1)] = 1.0
    """What a reward counts for the token before it."""
    lam: Annotated[float, Ge(0), Le(1)] = 0.95
    """GAE: 0 believes the critic, 1 only what came."""
    whiten: bool = True
    """Shift and scale an iteration's advantages to mean 0 and variance 1."""
    clip: Annotated[float, Ge(0)] = 0.0
    """Largest size of an advantage; 0 clips none."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """From advantages to a step."""

    cliprange: Annotated[float, Ge(0)] = 0.2
    """How far a token's probability may move in an iteration, as a share; 0 clips nothing."""
    cliprange_value: Annotated[float, Ge(0)] = 0.2
    """How far a value may move in an iteration; 0 clips nothing."""
    vf_coef: Annotated[float, Ge(0)] = 0.1
    """Weight of the critic's loss beside the policy's where both stand on one trunk (`critic_trunk=shared`)."""
    entropy_coef: Annotated[float, Ge(0)] = 0.0
    """Reward for being undecided, per nat of a token's entropy."""
    entropy_clip: Annotated[float, Ge(0)] = 0.0
    """Entropy above which nothing more is given, in nats; 0 sets no limit."""
    stop_kl: Annotated[float, Ge(0)] = 0.0
    """End an iteration's epochs where the policy moved so far from the one that answered (nats a token); 0 never."""


@dataclass(frozen=True, kw_only=True)
class PretrainingConfig:
    """The pretraining mix (PPO-ptx): text that the policy goes on learning, so that it stays a language model."""

    data: tuple[Path, ...] = ()
    """Token shard folders; none mixes nothing in."""
    coef: Annotated[float, Ge(0)] = 1.0
    """Weight of the text's mean loss beside the policy's."""
    rows: Annotated[int, Ge(1)] = 8
    """Rows of text in each forward pass."""
    max_length: Annotated[int, Ge(2)] = 128
    """Tokens in a row."""
