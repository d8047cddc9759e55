"""The documents of the last stage as what later stages read: `train-*.jsonl` and `holdout.jsonl`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from luban.data.factory import rows, tally
from luban.data.factory.engine import run_tasks
from luban.data.factory.rows import Writer
from luban.data.factory.run import Means
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


def publish(kept: Sequence[Path], out: Path, means: Means) -> tally.Counts:
    """Write the two sides into `out`; returns documents and characters of each."""
    for old in [*out.glob("train-*.jsonl"), *out.glob(HOLDOUT)]:
        old.unlink()
    work = out / "stages" / ".holdout"
    tasks = [
        Publishing(path, index, out / f"train-{index:05d}.jsonl", work / f"{index:05d}.jsonl")
        for index, path in enumerate(kept)
    ]
    nothing = {"train": {"documents": 0, "chars": 0}, "holdout": {"documents": 0, "chars": 0}}
    counts = tally.total([nothing, *run_tasks(_part, tasks, engine=means.engine, workers=means.workers)])
    join([task.holdout for task in tasks], out / HOLDOUT)
    shutil.rmtree(work, ignore_errors=True)
    return counts


def join(pieces: Sequence[Path], whole: Path, *, first: bytes = b"") -> None:
    """`first` and the files end to end as one."""
    with atomic_file(whole) as work, work.open("wb") as file:
        file.write(first)
        for piece in pieces:
            with piece.open("rb") as opened:
                shutil.copyfileobj(opened, file)


def _part(task: Publishing) -> tally.Counts:
    counts: tally.Counts = {side: {"documents": 0, "chars": 0} for side in ("train", "holdout")}
    with Writer(task.train) as train, Writer(task.holdout, durable=False) as holdout:
        files = {"train": train, "holdout": holdout}
        for line, row in rows.lines(task.kept):
            files[row["split"]].write(line)
            counts[row["split"]]["documents"] += 1
            counts[row["split"]]["chars"] += len(row["text"])
    return counts
