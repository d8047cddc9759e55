"""Stage `ppo`: a model that answers, and something that judges its answers, to a model whose answers are worth more.

docs/alignment.md follows one iteration line by line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt

from luban.alignment.config import PolicyOptimizer, RewardedConfig
from luban.alignment.ppo_config import AdvantageConfig, LossConfig, PretrainingConfig, ShapingConfig


@dataclass(frozen=True, kw_only=True)
class CriticOptimizer(PolicyOptimizer):
    """AdamW for the critic, which has more to learn than the policy."""

    learning_rate: Annotated[float, Gt(0)] = 1e-4
    """Peak learning rate."""


@dataclass(frozen=True, kw_only=True)
class Config(RewardedConfig):
    """Teach a model by what its answers are worth, with a critic."""

    critic: Path | None = None
    """Model folder with one score to start the critic from; none copies the reward model, or puts a head that says
    0 on the model."""
    critic_optimizer: CriticOptimizer = field(default_factory=CriticOptimizer)
    critic_warmup: Annotated[int, Ge(0)] = 0
    """First iterations in which only the critic learns."""
    replay: Annotated[int, Ge(0)] = 0
    """Past iterations whose answers are learned from again."""
    shaping: ShapingConfig = field(default_factory=ShapingConfig)
    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    pretraining: PretrainingConfig = field(default_factory=PretrainingConfig)


def run(config: Config) -> dict[str, Any]:
    """Learn for `loop.max_steps` iterations and write `<out>/final/`; returns the last figures and the seconds."""
    from luban import device, folder
    from luban.alignment.ppo_iteration import Iteration
    from luban.alignment.rounds import prepared

    more = [config.critic] if config.critic else []
    inputs = [*config.inputs, *config.pretraining.data, *more]
    folder.check_out(config.out, stage="ppo", config=config, inputs=inputs)
    place = device.start(config, seed=config.seed)
    iteration = Iteration(prepared("ppo", config, place), config)
    folder.claim(config.out, stage="ppo", config=config, inputs=inputs)
    results = iteration.rounds.run(iteration, iteration.kept())
    folder.finish(config.out, results)
    return results
