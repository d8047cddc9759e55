"""Stage `ppo`: a model that answers, and something that judges its answers, to a model whose answers are worth more.

docs/alignment.md follows one iteration line by line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt

from luban.alignment.config import PolicyOptimizer, RewardedConfig
from luban.alignment.ppo_config import AdvantageConfig, LossConfig, PretrainingConfig, ShapingConfig
from luban.errors import ConfigError
from luban.training.config import LAYOUT

if TYPE_CHECKING:
    import torch

    from luban.training.parallel.world import World


@dataclass(frozen=True, kw_only=True)
class CriticOptimizer(PolicyOptimizer):
    """AdamW for the critic, which has more to learn than the policy."""

    learning_rate: Annotated[float, Gt(0)] = 1e-4
    """Peak learning rate."""


@dataclass(frozen=True, kw_only=True)
class Config(RewardedConfig):
    """Teach a model by what its answers are worth, with a critic."""

    critic_trunk: Literal["separate", "shared"] = "separate"
    """A critic with weights of its own; or a head on the policy's states, which costs no pass and no weights, learns
    with the policy's optimizer, and pulls at its trunk by `loss.vf_coef`."""
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

    def __post_init__(self) -> None:
        """Raises ConfigError for settings of a critic that this run has not, and as `RewardedConfig` does."""
        super().__post_init__()
        own = {
            "critic": self.critic is not None,
            "critic_warmup": self.critic_warmup > 0,
            "critic_optimizer": self.critic_optimizer != CriticOptimizer(),
        }
        if self.critic_trunk == "shared" and any(own.values()):
            name = next(name for name, told in own.items() if told)
            what = "a critic on the policy's trunk has no weights, warm-up or optimizer of its own"
            raise ConfigError(what, where=f"setting '{name}'", hint="critic_trunk=separate")


def run(config: Config) -> dict[str, Any]:
    """Learn for `loop.max_steps` iterations and write `<out>/final/`; returns the last figures and the seconds.

    Started by torchrun, each process does its part (`config.parallel`) and returns the same.
    """
    from luban import device
    from luban.training.parallel.world import joined

    place = device.start(config, seed=config.seed)
    with joined(config.parallel, place) as world:
        return _run(config, place, world)


def _run(config: Config, place: torch.device, world: World) -> dict[str, Any]:
    from luban import folder
    from luban.alignment.ppo_iteration import Iteration
    from luban.alignment.rounds import prepared
    from luban.training.parallel.claim import claim, finish

    more = [config.critic] if config.critic else []
    inputs = [*config.inputs, *config.pretraining.data, *more]
    folder.check_out(config.out, stage="ppo", config=config, inputs=inputs, free=LAYOUT)
    iteration = Iteration(prepared("ppo", config, place, world), config)
    claim(config.out, world, stage="ppo", config=config, inputs=inputs)
    results = iteration.rounds.run(iteration, learning=iteration.learning, kept=iteration.kept())
    finish(config.out, results, world)
    return results
