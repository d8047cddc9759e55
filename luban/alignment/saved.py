"""A run of alignment on disk: `<out>/checkpoints/step-00000012/`, whole or absent, and a pointer to the latest.

A folder for each model that learns (`policy/`, `critic/`) is a model or adapter folder that can be looked at, with
its optimizer beside it as `training/checkpoint.py` writes it: any layout of processes reads what any other wrote.
`state.pt` holds the rest, so that a killed run goes on bit for bit.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from luban import device, folder
from luban.errors import CheckpointError
from luban.tokenizers.files import FileTokenizer
from luban.training import checkpoint
from luban.training.learner import Learner
from luban.training.parallel.whole import fill, joined
from luban.training.parallel.world import World

STATE = "state.pt"


class Kept(Protocol):
    """Something whose state a run goes on with: tensors and plain values, the same on all processes."""

    def state(self) -> Any: ...

    def restore(self, state: Any, /) -> None: ...


class Learning(Kept, Protocol):
    """A model that learns, with its optimizer; its `state` is told beside them, and restored before."""

    @property
    def model(self) -> Any: ...
    @property
    def learner(self) -> Learner: ...
    @property
    def optimizer(self) -> torch.optim.Optimizer: ...


class Weights:
    """A module as something kept."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module

    def state(self) -> Any:
        """See `Kept`; processes that hold parts call this together."""
        return {name: joined(weight) for name, weight in self.module.state_dict().items()}

    def restore(self, state: Any) -> None:
        """See `Kept`."""
        for name, held in self.module.state_dict().items():
            fill(held, state[name])


def save(
    out: Path,
    step: int,
    *,
    learning: Mapping[str, Learning],
    kept: Mapping[str, Kept],
    tokenizer: FileTokenizer,
    limit: int,
    world: World,
) -> Path:
    """Write the checkpoint of `step` and keep the newest `limit`; returns its folder. All processes call this."""
    target = checkpoint.at(out, step)
    if not world.most(target.is_dir()):  # saved twice where a run was stopped
        with checkpoint.filled_by_all(target, world) as work:
            _write(work, step, learning, kept, tokenizer, world)
    if world.main:
        folder.write_text(target.parent / checkpoint.LATEST, target.name)
        for old in sorted(target.parent.glob("step-*"))[:-limit]:
            shutil.rmtree(old)
    world.wait()
    return target


def _write(
    work: Path,
    step: int,
    learning: Mapping[str, Learning],
    kept: Mapping[str, Kept],
    tokenizer: FileTokenizer,
    world: World,
) -> None:
    told = {name: thing.state() for name, thing in {**learning, **kept}.items()}
    random = world.everyones([device.random_state()])
    about: dict[str, Any] = {}
    for name, one in learning.items():
        (work / name).mkdir(exist_ok=True)
        world.wait()
        about[name] = checkpoint.write_learnt(
            work / name, one.model, one.optimizer, tokenizer, one.learner, world
        )
    if world.main:
        torch.save({"step": step, "random": random, "kept": told, "about": about}, work / STATE)


def resume(out: Path, *, learning: Mapping[str, Learning], kept: Mapping[str, Kept], world: World) -> int:
    """Put the newest checkpoint's state into the given objects and generators; returns its step, 0 without one.

    In another layout of processes each keeps its own random numbers, which no answer is drawn by. Raises
    CheckpointError if the checkpoint holds other parts than this run has.
    """
    newest = checkpoint.latest(out)
    if newest is None:
        return 0
    state, parts = torch.load(newest / STATE, weights_only=True), {**learning, **kept}
    if state["kept"].keys() != parts.keys():
        what = f"the checkpoint holds {sorted(state['kept'])}, this run has {sorted(parts)}"
        raise CheckpointError(what, where=newest)
    for name, thing in parts.items():
        thing.restore(state["kept"][name])
    for name, one in learning.items():
        about: dict[str, Any] = {
            "model": one.model,
            "optimizer": one.optimizer,
            "learner": one.learner,
            "world": world,
        }
        checkpoint.read_learnt(newest / name, state["about"][name], **about)
    if len(state["random"]) == world.dp:
        device.restore_random_state(state["random"][world.place("dp")])
    return int(state["step"])
