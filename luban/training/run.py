"""A run of the loop around a model, as every stage that trains makes it: laid out, counted, compiled if it pays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch

from luban.data.loader import Loader
from luban.device import seed_copy
from luban.tokenizers.files import FileTokenizer
from luban.training.compiling import compiled
from luban.training.config import LoopConfig, OptimizerConfig, ParallelConfig
from luban.training.learner import Learner, all_of
from luban.training.loop import Fit, Sample, Validate, finish_model
from luban.training.parallel.plans import plan_for
from luban.training.parallel.spread import check, spread
from luban.training.parallel.stages import check as check_pipeline
from luban.training.parallel.world import World
from luban.training.step import Objective


class TrainingConfig(Protocol):
    """What the config of a stage that trains has."""

    @property
    def out(self) -> Path: ...
    @property
    def optimizer(self) -> OptimizerConfig: ...
    @property
    def loop(self) -> LoopConfig: ...
    @property
    def parallel(self) -> ParallelConfig: ...
    @property
    def seed(self) -> int: ...


def check_layout(config: TrainingConfig, shape: Any, world: World) -> None:
    """Raise ConfigError where a model of `shape` cannot be laid out over `world` as `config.parallel` says."""
    check(config.parallel, world)
    check_pipeline(shape, config.parallel, micro_batches=config.loop.gradient_accumulation_steps)
    plan_for(shape, config.parallel.tp)


def train(
    config: TrainingConfig,
    *,
    title: str,
    model: Any,
    tokenizer: FileTokenizer,
    loader: Callable[[int | None], Loader],
    objective: Callable[[Any, bool], Objective],
    validation: Callable[[Any, Objective], Validate],
    world: World,
    device: torch.device,
    learner: Learner | None = None,
    learnt: Callable[[Objective], Objective] = lambda objective: objective,
    sample: Sample | None = None,
    sample_steps: Callable[[int], frozenset[int]] = lambda _: frozenset(),
) -> dict[str, Any]:
    """Train `model`, or go on, and write `<out>/final/`; returns the last validation, the costs and the steps.

    `model` is on `device`, alike on every process; `loader(epochs)` gives this process's batches (None: endless),
    `objective(model, compiled)` what is asked of the model as it is laid out, and `learnt` makes of that what is
    trained where it is not the same. `sample_steps` takes the steps of the run.

    Raises ModelError for a model in fewer bits that is to be trained whole.
    """
    learner = learner or all_of(model)
    seed_copy(config.seed, world.place("dp"))
    laid_out = spread(model, world, config.parallel)
    steps = config.loop.steps(lambda: loader(1).remaining())
    compiles = compiled(config.loop, laid_out, world, out=config.out, steps=steps, device=device)
    asked = objective(laid_out.model, compiles)
    fit = Fit(
        title=title,
        out=config.out,
        model=laid_out.model,
        tokenizer=tokenizer,
        loader=loader(None),
        objective=learnt(asked),
        loop=config.loop,
        optimizer=config.optimizer,
        steps=steps,
        validate=validation(laid_out.model, laid_out.asked(asked)),
        learner=learner,
        sample=sample,
        sample_steps=sample_steps(steps),
        world=world,
        spread=laid_out,
        device=device,
    )
    results = {**fit.train(), "steps": steps}
    finish_model(fit)
    return results
