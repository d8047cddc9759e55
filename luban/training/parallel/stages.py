"""A model cut into the stages of a pipeline, its code untouched.

Stages are contiguous runs of blocks of about as many weights; the first also has what stands before the blocks (the
family's `entrance`), the last the norm and the head. What a process does not run is replaced by `Absent`, so every
weight keeps its name: `blocks.3.attention.q.weight` is the same one in a stage, in the whole model, in a checkpoint.
A tied head becomes a weight of its own on the last stage; `pipeline.py` sums the two gradients, so both stay equal.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from luban.errors import ConfigError
from luban.models import FAMILIES
from luban.training.config import ParallelConfig
from luban.training.parallel.clock import group_size
from luban.training.parallel.world import World

EXIT = ("norm", "head")
"""What stands behind the blocks, where a family has it."""

Split = tuple[int, int, tuple[int, ...]]
"""Blocks on stages: the largest share, the sum of squared shares, and where each share ends (first: 0)."""


class Absent(nn.Module):
    """Stands for a module of another stage: states pass unchanged, and of numbers (positions) it adds nothing."""

    def forward(self, x: Tensor, *_context: Any) -> Tensor:
        return x if x.is_floating_point() else x.new_zeros((), dtype=torch.float32)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage's share of a model."""

    number: int
    first: bool
    last: bool
    model: Any
    """The model with this stage's modules only; it shares their weights with the process's model."""


def check(model: Any, config: ParallelConfig, *, micro_batches: int) -> None:
    """Raise ConfigError, before anything is built, where a pipeline cannot train a model of the config `model`."""
    if config.pp > 1:
        check_model(model, config)
        check_step(config, micro_batches)


def check_model(model: Any, config: ParallelConfig) -> None:
    """Raise ConfigError where a model of the config `model` cannot be cut into a pipeline of `config`."""
    where = "setting 'parallel.pp'"
    if not getattr(FAMILIES[model.model_type].model, "entrance", ()):
        can = [name for name, family in FAMILIES.items() if getattr(family.model, "entrance", ())]
        what = f"a '{model.model_type}' model is not cut into stages"
        raise ConfigError(what, where=where, hint=f"one of {', '.join(can)}")
    if getattr(model, "experts", 0):
        what = "experts are kept evenly used over all layers at once, and no stage sees all layers"
        raise ConfigError(what, where=where, hint="parallel.pp=1 for a mixture of experts")
    stages = stage_count(config)
    if model.layers < stages:
        of = f" of {config.chunks} chunks each" if stages > config.pp else ""
        raise ConfigError(f"{model.layers} layers are too few for pp {config.pp}{of}", where=where)


def check_step(config: ParallelConfig, micro_batches: int) -> None:
    """Raise ConfigError where `config.schedule` cannot run a step of so many micro-batches."""
    if config.schedule == "1f1b" and micro_batches < config.pp:
        raise ConfigError(
            f"too few micro-batches to fill {config.pp} stages: {micro_batches}",
            where="setting 'parallel.schedule'",
            hint=f"loop.gradient_accumulation_steps={4 * config.pp}, or parallel.schedule=gpipe, which waits longer",
        )
    if config.schedule == "interleaved":
        group_size(config.pp, micro_batches)


def stage_count(config: ParallelConfig) -> int:
    """Stages of the whole pipeline: `chunks` on each process where they are interleaved."""
    return config.pp * (config.chunks if config.schedule == "interleaved" else 1)


def split(model: Any, world: World, config: ParallelConfig) -> Any:
    """The same model, of which this process now holds its modules; its optimizer is made afterwards of those."""
    assert world.pp == config.pp > 1
    shares = balanced_spans(model, stage_count(config))
    mine = {number for number in range(len(shares)) if number % world.pp == world.place("pp")}
    kept = {block for number in mine for block in shares[number]}
    _keep(model, kept, first=0 in mine, last=len(shares) - 1 in mine)
    return model


def stages_of(model: Any, world: World, config: ParallelConfig) -> list[Stage]:
    """This process's stages of a `split` model, by their number."""
    last, own = stage_count(config) - 1, list[Stage]()
    for run in _runs_of_present(model.blocks):
        number = world.place("pp") + len(own) * world.pp
        view = copy.copy(model)
        view._modules = dict(model._modules)
        _keep(view, run, first=number == 0, last=number == last)
        own.append(Stage(number=number, first=number == 0, last=number == last, model=view))
    assert len(own) * world.pp == last + 1, "split the model first"
    return own


def balanced_spans(model: Any, stages: int) -> list[range]:
    """Which blocks each stage has, so that the stage with the most weights has as few as possible."""
    weights = [_weight(block) for block in model.blocks]
    before, behind = ([getattr(model, name, None) for name in names] for names in (model.entrance, EXIT))
    return spans(weights, stages, before=sum(map(_weight, before)), behind=sum(map(_weight, behind)))


def spans(weights: Sequence[int], stages: int, *, before: int = 0, behind: int = 0) -> list[range]:
    """Contiguous shares of `weights`, at least one each; `before` counts to the first share, `behind` to the last.

    The largest share is as small as can be, and among such splits the sum of squares.
    """
    until = [0, *accumulate(weights)]

    def extended(split: Split, end: int, stage: int) -> Split:
        ends = split[2]
        share = until[end] - until[ends[-1]] + before * (stage == 0) + behind * (stage == stages - 1)
        return max(split[0], share), split[1] + share**2, (*ends, end)

    best: dict[int, Split] = {0: (0, 0, (0,))}  # of the first blocks, on the stages so far
    for stage in range(stages):
        reach = range(stage + 1, len(weights) - (stages - 1 - stage) + 1)
        best = {
            end: min(extended(split, end, stage) for begin, split in best.items() if begin < end)
            for end in reach
        }
    return [range(*pair) for pair in pairwise(best[len(weights)][2])]


def _keep(model: Any, blocks: Collection[int], *, first: bool, last: bool) -> None:
    """Replace all modules with weights but these; the list of blocks is a new one, so that a view has its own."""
    kept = (block if place in blocks else Absent() for place, block in enumerate(model.blocks))
    model.blocks = nn.ModuleList(kept)
    gone = (() if first else model.entrance) + (() if last else EXIT)
    for name in gone:
        if hasattr(model, name):
            setattr(model, name, Absent())


def _runs_of_present(blocks: nn.ModuleList) -> list[list[int]]:
    """Numbers of neighbouring blocks that are here, run by run: a process's stages never touch each other."""
    runs: list[list[int]] = []
    for place, block in enumerate(blocks):
        if isinstance(block, Absent):
            continue
        if runs and runs[-1][-1] == place - 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    return runs


def _weight(module: nn.Module | None) -> int:
    return 0 if module is None else sum(parameter.numel() for parameter in module.parameters())
