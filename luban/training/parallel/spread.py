"""How a model is laid out over the processes of a run: the one place that reads `ParallelConfig` and decides.

    pipeline (pp) | tensor parallel (tp), then copies (dp): DDP with `zero` 0 and 1, FSDP2 with 2 and 3;
    copies of what tensor parallelism has split add their gradients themselves (`divided.py`)

What comes back answers three questions, whatever the layout: how to ask an objective of the model (validation),
where the gradients come from (training), and which optimizer moves what this process holds.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

from luban.errors import ConfigError
from luban.training.config import OptimizerConfig, ParallelConfig
from luban.training.optim import adamw
from luban.training.parallel.world import ALONE, World
from luban.training.step import Accumulated, Gradients, Objective


class Spread(Protocol):
    """A model as its processes hold it. All of them call the same methods at the same time."""

    @property
    def model(self) -> Any:
        """The model under its own names; its parameters may be parts (DTensors), or some only (pipeline)."""
        ...

    @property
    def compiles(self) -> bool:
        """Whether an objective may compile `model.hidden`: whether it runs here, whole, without hooks inside."""
        ...

    def asked(self, objective: Objective) -> Objective:
        """`objective` so that it can be asked of this model; its sums are of the rows that are given here."""
        ...

    def gradients(self, objective: Objective) -> Gradients:
        """Where a step's gradients come from."""
        ...

    def optimizer(self, config: OptimizerConfig) -> torch.optim.Optimizer:
        """What moves the parameters that this process holds."""
        ...


class Undivided:
    """One process with the whole model."""

    compiles = True

    def __init__(self, model: Any) -> None:
        self.model = model

    def asked(self, objective: Objective) -> Objective:
        """See `Spread.asked`."""
        return objective

    def gradients(self, objective: Objective) -> Gradients:
        """See `Spread.gradients`."""
        return Accumulated(self.model, objective)

    def optimizer(self, config: OptimizerConfig) -> torch.optim.Optimizer:
        """See `Spread.optimizer`."""
        return adamw(self.model, config)


def spread(model: Any, world: World = ALONE, config: ParallelConfig | None = None) -> Spread:
    """`model`, built alike on every process, laid out over `world`.

    Raises ConfigError for settings that do not go together or that one process cannot do.
    """
    config = config or ParallelConfig()
    check(config, world)
    if world.size == 1:
        return Undivided(model)
    if config.pp > 1:
        from luban.training.parallel.pipeline import Staged

        return Staged(model, world, config)
    if config.tp > 1:
        from luban.training.parallel.tensor import split

        model = split(model, world)
    if config.zero >= 2:
        from luban.training.parallel.sharded import Sharded

        return Sharded(model, world, config)
    if config.tp > 1:
        from luban.training.parallel.divided import Divided

        return Divided(model, world)
    from luban.training.parallel.copies import Copied

    return Copied(model, world, config)


def check(config: ParallelConfig, world: World) -> None:
    """Raise ConfigError where two settings of `parallel` exclude each other, or need more processes."""
    for fault, what in (
        (config.offload and config.zero < 2, f"offload is with zero 2 or 3, and zero is {config.zero}"),
        (config.zero and world.dp == 1, f"zero={config.zero} shares out among copies, and dp is 1"),
        (
            config.compress != "none" and world.dp == 1,
            f"compress={config.compress} is for copies, and dp is 1",
        ),
        (config.compress != "none" and config.zero, _both("compress", "zero", config)),
        (config.compress != "none" and config.tp > 1, _both("compress", "tp", config)),
        (config.compress != "none" and config.pp > 1, _both("compress", "pp", config)),
        (config.pp > 1 and config.zero > 1, _both("pp", "zero", config)),
        (config.tp > 1 and config.zero == 1, _both("tp", "zero", config)),
    ):
        if fault:
            raise ConfigError(what, where="setting 'parallel'")


def _both(one: str, other: str, config: ParallelConfig) -> str:
    return f"{one}={getattr(config, one)} and {other}={getattr(config, other)} do not go together"
