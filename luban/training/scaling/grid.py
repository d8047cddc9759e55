"""The runs of a grid: every size with every budget, their steps and their settings.

A budget is compute. So each budget's runs lie on one IsoFLOP curve as they are, and no time goes into large models
on long texts, the dearest corner of a grid of sizes by tokens and the one that says least about the best size.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from luban.errors import ConfigError
from luban.training import pretrain
from luban.training.architecture import ArchitectureConfig, new_config
from luban.training.config import LoopConfig, OptimizerConfig
from luban.training.flops import body_parameters, matrix_parameters, training_flops_per_token
from luban.training.scaling.config import Config

SIZE = re.compile(r"([1-9]\d*)x([1-9]\d*)")
HEAD_DIM = 32
RATE_WIDTH = 128
"""The width whose learning rate is the setting's."""
MOST_WARMUP = 0.25
"""Share of a size's shortest run that warm-up may take."""
LOG_LINES = 20
"""Lines in each run's log."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """A model shape and what a token costs it."""

    name: str
    architecture: ArchitectureConfig
    weights: int
    body: int
    flops_per_token: float

    def learning_rate(self, at_128: float) -> float:
        """The peak for this width, inverse to it; `at_128` is that of a width of 128.

        Source: Adam's rate for hidden matrices, Yang et al. 2022, table 3 (arXiv:2203.03466); docs/scaling.md
        has the trials.
        """
        return at_128 * RATE_WIDTH / self.architecture.dim


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run: a size, a budget, a seed."""

    size: Size
    budget: float
    seed: int
    steps: int
    step_tokens: int
    warmup: int
    stable: int
    """Steps until the learning rate begins to fall: up to here, longer runs of this size are the same run."""

    @property
    def name(self) -> str:
        return f"{self.size.name}-{self.budget:g}-seed{self.seed}"

    @property
    def tokens(self) -> int:
        return self.steps * self.step_tokens

    @property
    def flops(self) -> float:
        return self.tokens * self.size.flops_per_token

    def shares(self, other: Cell) -> bool:
        """Whether this run begins with the steps of `other`, a shorter one."""
        return (self.size.name, self.seed) == (other.size.name, other.seed) and self.steps > other.steps


def sizes(config: Config, vocab: int) -> list[Size]:
    """The shapes that `config.sizes` names, fewest weights first. Raises ConfigError for a word that is none."""
    found = sorted((_size(word, config, vocab) for word in config.sizes), key=lambda size: size.weights)
    if len({size.weights for size in found}) < len(found):
        raise ConfigError("two sizes have equally many weights", where="setting 'sizes'")
    return found


def _size(word: str, config: Config, vocab: int) -> Size:
    match = SIZE.fullmatch(word)
    if not match:
        raise ConfigError(f"'{word}' is no LAYERSxDIM", where="setting 'sizes'", hint="--sizes 2x64 4x128")
    layers, dim = map(int, match.groups())
    shape = ArchitectureConfig(
        model_type=config.model_type, layers=layers, dim=dim, heads=max(1, dim // HEAD_DIM)
    )
    model = new_config(shape, vocab=vocab, context=config.max_length, eos_id=0)
    return Size(
        name=word,
        architecture=shape,
        weights=matrix_parameters(model),
        body=body_parameters(model),
        flops_per_token=training_flops_per_token(model, config.max_length),
    )


def cells(config: Config, shapes: Sequence[Size]) -> list[Cell]:
    """All runs, size by size, the shortest first: a longer one goes on from it."""
    budgets = sorted(set(config.flops))
    if len(shapes) < 3 or len(budgets) < 2:
        what = f"{len(shapes)} sizes by {len(budgets)} budgets tell no law"
        raise ConfigError(what, where="luban scaling", hint="at least 3 --sizes and 2 --flops")
    seeds = sorted(set(config.seeds))
    if not seeds:
        raise ConfigError("give at least one seed", where="setting 'seeds'")
    return [cell for size in shapes for seed in seeds for cell in _runs_of(size, seed, budgets, config)]


def _runs_of(size: Size, seed: int, budgets: Sequence[float], config: Config) -> list[Cell]:
    step_tokens = config.per_device_train_batch_size * config.max_length
    steps = [max(1, round(budget / size.flops_per_token / step_tokens)) for budget in budgets]
    if any(longer <= shorter for shorter, longer in pairwise(steps)):
        what = (
            f"{size.name} would take {steps} steps of {step_tokens:,} tokens: budgets too small to tell apart"
        )
        raise ConfigError(what, where="setting 'flops'", hint="larger --flops, or smaller --sizes")
    warmup = min(config.warmup_steps, int(MOST_WARMUP * steps[0]))
    return [
        Cell(
            size=size,
            budget=budget,
            seed=seed,
            steps=count,
            step_tokens=step_tokens,
            warmup=warmup,
            stable=warmup + int((1 - config.decay_ratio) * (count - warmup)),
        )
        for budget, count in zip(budgets, steps, strict=True)
    ]


def new_tokens(cell: Cell, done: Iterable[Cell]) -> int:
    """Tokens this run still has to see when the runs in `done` can be gone on from."""
    return cell.tokens - max((one.stable * one.step_tokens for one in done if cell.shares(one)), default=0)


def run_config(cell: Cell, config: Config) -> pretrain.Config:
    """The cell as a run of `luban pretrain`: constant rate after warm-up, then linearly down to 0."""
    return pretrain.Config(
        data=config.data,
        tokenizer=config.tokenizer,
        validation=config.validation,
        out=config.out / "cells" / cell.name,
        architecture=cell.size.architecture,
        packing="windows",  # in whole documents one long text would fill many small steps in a row
        optimizer=OptimizerConfig(
            learning_rate=cell.size.learning_rate(config.learning_rate),
            lr_scheduler_type="wsd",
            warmup_steps=cell.warmup,
            min_lr_ratio=0.0,
            decay_ratio=config.decay_ratio,
        ),
        loop=LoopConfig(
            max_steps=cell.steps,
            per_device_train_batch_size=config.per_device_train_batch_size,
            max_length=config.max_length,
            compile=False,  # compiling each size costs more than it saves in so short a run
            logging_steps=max(1, cell.steps // LOG_LINES),
            eval_batches=config.eval_batches,
            save_steps=cell.stable,
        ),
        seed=cell.seed,
        device=config.device,
        threads=config.threads,
    )
