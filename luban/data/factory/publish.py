"""The documents of the last stage as what later stages read: `train-*.jsonl` and `holdout.jsonl`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from luban.data.factory.engine import finish_tasks
from luban.data.factory.rows import CHUNK, Writer
from luban.data.factory.run import Means
from luban.data.factory.tally import SIDES
from luban.folder import atomic_file

HOLDOUT = "holdout.jsonl"
QUARANTINE = "quarantine.jsonl"


@dataclass(frozen=True)
class Publishing:
    """Part `index` of the last stage, to be parted by side."""

    kept: Path
    index: int
    train: Path
    holdout: Path


def publish(kept: Sequence[Path], out: Path, means: Means) -> None:
    """Write the two sides into `out`."""
    for old in [*out.glob("train-*.jsonl"), *out.glob(HOLDOUT)]:
        old.unlink()
    work = out / "stages" / ".holdout"
    tasks = [
        Publishing(path, index, out / f"train-{index:05d}.jsonl", work / f"{index:05d}.jsonl")
        for index, path in enumerate(kept)
    ]
    finish_tasks(_part, tasks, engine=means.engine, workers=means.workers, label="publish")
    join([task.holdout for task in tasks], out / HOLDOUT)
    shutil.rmtree(work, ignore_errors=True)


def join(pieces: Sequence[Path], whole: Path, *, first: bytes = b"") -> None:
    """`first` and the files end to end as one."""
    with atomic_file(whole) as work, work.open("wb") as file:
        file.write(first)
        for piece in pieces:
            with piece.open("rb") as opened:
                shutil.copyfileobj(opened, file)


def _part(task: Publishing) -> None:
    with (
        Writer(task.train) as train,
        Writer(task.holdout, durable=False) as holdout,
        task.kept.open("rb", buffering=CHUNK) as kept,
    ):
        for line in kept:
            (holdout if _is_held_out(line) else train).write(line)


def _is_held_out(line: bytes) -> bool:
    """Whether the row's own entry `split` says so; a row that came without one has it at its end."""
    for side in SIDES:
        if line.endswith(b',"split":"%s"}\n' % side.encode()):
            return side == "holdout"
    return orjson.loads(line)["split"] == "holdout"
