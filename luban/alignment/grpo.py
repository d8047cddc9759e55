"""Stage `grpo`: a model that answers each prompt several times learns from how its answers compare. No critic.

Made for rewards that a program can check (`verify/`); any other judge will do as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt

from luban.alignment.config import RewardedConfig
from luban.training.config import LAYOUT

if TYPE_CHECKING:
    import torch

    from luban.training.parallel.world import World


@dataclass(frozen=True, kw_only=True)
class Config(RewardedConfig):
    """Teach a model by how its answers to one prompt compare."""

    num_generations: Annotated[int, Ge(2)] = 8
    """Answers to each prompt: its group."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Divide an answer's distance from its group's mean by the group's deviation, by that of all, or by nothing."""
    epsilon: Annotated[float, Gt(0)] = 0.2
    """How far a token's probability may fall in an iteration, as a share, and rise where `epsilon_high` is 0."""
    epsilon_high: Annotated[float, Ge(0)] = 0.0
    """How far it may rise; 0.28 lets unlikely tokens grow (clip-higher). 0 takes `epsilon`."""
    beta: Annotated[float, Ge(0)] = 0.0
    """Price of a nat between policy and reference, in the loss; at 0 the KL is told of one answer to each prompt."""
    loss_type: Literal["token", "sequence"] = "token"
    """Average over all tokens alike, or within each answer first, so that long answers weigh as much as short ones."""


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
    from luban.alignment.grpo_iteration import Iteration
    from luban.alignment.rounds import prepared
    from luban.training.parallel.claim import claim, finish

    folder.check_out(config.out, stage="grpo", config=config, inputs=config.inputs, free=LAYOUT)
    iteration = Iteration(prepared("grpo", config, place, world), config)
    claim(config.out, world, stage="grpo", config=config, inputs=config.inputs)
    results = iteration.rounds.run(iteration, learning=iteration.learning, kept=iteration.kept())
    finish(config.out, results, world)
    return results
