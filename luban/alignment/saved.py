"""A run of alignment on disk: `<out>/checkpoints/step-00000012/`, whole or absent, and a pointer to the latest.

`policy/` is a model or adapter folder that can be looked at; `state.pt` holds the rest, so that a killed run goes on
bit for bit.
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

STATE = "state.pt"
POLICY = "policy"


class Kept(Protocol):
    """Something whose state a run goes on with: tensors and plain values."""

    def state(self) -> Any: ...

    def restore(self, state: Any, /) -> None: ...


class Weights:
    """A module as something kept."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module

    def state(self) -> Any:
        """See `Kept`."""
        return self.module.state_dict()

    def restore(self, state: Any) -> None:
        """See `Kept`."""
        self.module.load_state_dict(state)


def save(
    out: Path,
    step: int,
    *,
    policy: Any,
    learner: Learner,
    tokenizer: FileTokenizer,
    kept: Mapping[str, Kept],
    limit: int,
) -> Path:
    """Write the checkpoint of `step` and keep the newest `limit`; returns its folder."""
    target = checkpoint.at(out, step)
    if not target.is_dir():  # saved twice where a run was stopped
        with folder.atomic_folder(target) as work:
            (work / POLICY).mkdir()
            learner.write(work / POLICY, policy, tokenizer)
            whole = {name: thing.state() for name, thing in kept.items()}
            torch.save({"step": step, "random": device.random_state(), "kept": whole}, work / STATE)
    folder.write_text(target.parent / checkpoint.LATEST, target.name)
    for old in sorted(target.parent.glob("step-*"))[:-limit]:
        shutil.rmtree(old)
    return target


def resume(out: Path, *, policy: Any, learner: Learner, kept: Mapping[str, Kept]) -> int:
    """Put the newest checkpoint's state into the given objects and generators; returns its step, 0 without one.

    Raises CheckpointError if it holds other parts than this run has.
    """
    newest = checkpoint.latest(out)
    if newest is None:
        return 0
    state = torch.load(newest / STATE, weights_only=True)
    if state["kept"].keys() != kept.keys():
        what = f"the checkpoint holds {sorted(state['kept'])}, this run has {sorted(kept)}"
        raise CheckpointError(what, where=newest)
    for name, thing in kept.items():
        thing.restore(state["kept"][name])
    learner.read(newest / POLICY, policy)
    device.restore_random_state(state["random"])
    return int(state["step"])
