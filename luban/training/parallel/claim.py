"""A run's output folder, taken and finished once however many processes work in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luban import folder
from luban.training.config import LAYOUT
from luban.training.parallel.world import World


def claim(out: Path, world: World, *, stage: str, config: Any, inputs: Sequence[Path]) -> Path:
    """`folder.claim` for a run that may go on in another layout; every process raises what one of them would."""
    given: dict[str, Any] = {"stage": stage, "config": config, "inputs": inputs, "free": LAYOUT}
    folder.check_out(out, **given)
    world.wait()  # till all have seen the folder as it was
    if world.main:
        folder.claim(out, **given)
    world.wait()
    return out


def finish(out: Path, results: dict[str, Any], world: World) -> None:
    """`folder.finish`, when all processes are done."""
    world.wait()
    if world.main:
        folder.finish(out, results)
