"""A recipe over files: stage after stage, part after part, doing only what is not done yet.

    OUT/stages/02-fuzzy/kept/00000.jsonl        documents that stay
                        rejected/00000.jsonl    those that go, each with step, reason and value
                        quarantine/00000.jsonl  records that are no documents, or broke a step
                        stats/00000.json        counts of the part, written last
                        collected/, decisions/  of the stage's corpus step
                        stats.json              counts of the stage

A stage's folder is good for as long as its key (settings, code, the stage before) stays the same.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from luban.data.dedup.buckets import is_saved
from luban.data.factory import part, tally
from luban.data.factory.engine import Engine, finish_tasks
from luban.data.factory.part import Collecting, Reading, Task, saved
from luban.data.factory.recipe import Recipe, Stage
from luban.data.factory.rows import Files
from luban.data.sources import Slice
from luban.folder import read_json, write_json

KEY = "stage.json"
SHARE_OF_BATCH = 64
"""A batch takes a 64th of a worker's memory: its text is held as Python objects, UTF-8, rows and kernels' tables."""
LARGEST_BATCH = 4_000_000
AnyTask = TypeVar("AnyTask")


@dataclass(frozen=True)
class Means:
    """What a run may use."""

    engine: Engine
    workers: int
    memory: int
    """Bytes, all workers together."""

    @property
    def batch_chars(self) -> int:
        return min(LARGEST_BATCH, max(1, self.memory // self.workers // SHARE_OF_BATCH))


@dataclass(frozen=True)
class Done:
    """A finished stage, its folder and counts."""

    stage: Stage
    folder: Path
    parts: int
    counts: tally.Counts

    @property
    def name(self) -> str:
        return self.stage.name


def run_stages(
    recipe: Recipe,
    tasks: Sequence[tuple[Slice, ...]],
    inputs: str,
    out: Path,
    *,
    reading: Reading,
    means: Means,
) -> list[Done]:
    """All stages over `tasks`, the pieces of raw files that make one part each.

    `inputs` identifies the raw files: stages made from others are done again. Folders of stages that the recipe
    no longer has are deleted at the end.
    """
    sources: list[Path | tuple[Slice, ...]] = list(tasks)
    key, done = inputs, list[Done]()
    for number, stage in enumerate(recipe.stages):
        key = stage.key(key)
        folder = out / "stages" / f"{number:02d}-{stage.name}"
        following = recipe.stages[number + 1] if number + 1 < len(recipe.stages) else None
        ahead = out / "stages" / f"{number + 1:02d}-{following.name}" if following else None
        if ahead and following:
            _claim(ahead, following.key(key))
        _claim(folder, key)
        done.append(_run_stage(stage, folder, sources, following, ahead, reading, means))
        sources = [Files(folder, index).of("kept") for index in range(len(tasks))]
    _delete_others(out / "stages", [stage.folder for stage in done])
    return done


def _run_stage(
    stage: Stage,
    folder: Path,
    sources: Sequence[Path | tuple[Slice, ...]],
    following: Stage | None,
    ahead: Path | None,
    reading: Reading,
    means: Means,
) -> Done:
    started = time.monotonic()
    waiting = [i for i in range(len(sources)) if not part.is_done(Files(folder, i))]
    decisions = [folder / "decisions" / f"{index:05d}.npy" for index in range(len(sources))]
    if stage.corpus and waiting:
        _decide(stage, folder, sources, decisions, means)
    collector = following.corpus[1] if following and following.corpus else None
    tasks = [
        Task(
            folder=folder,
            index=index,
            source=sources[index],
            reading=reading,
            corpus=stage.corpus,
            decisions=decisions[index] if stage.corpus else None,
            steps=stage.steps,
            following=collector,
            collected=ahead / "collected" if ahead and collector else None,
            batch_chars=means.batch_chars,
        )
        for index in waiting
    ]
    _all(part.process, tasks, stage.name, means)
    counts = tally.total(
        [tally.empty(), *(read_json(Files(folder, i).of("stats", "json")) for i in range(len(sources)))]
    )
    write_json(folder / "stats.json", counts, durable=False)
    _tell(stage, counts, time.monotonic() - started, again=not waiting)
    return Done(stage, folder, len(sources), counts)


def _decide(
    stage: Stage, folder: Path, sources: Sequence[Any], decisions: Sequence[Path], means: Means
) -> None:
    """Have the corpus step collect what is missing, and resolve."""
    assert stage.corpus is not None
    if all(map(is_saved, decisions)):
        return
    name, step = stage.corpus
    collected = folder / "collected"
    missing = [
        Collecting(sources[i], i, step, collected, means.batch_chars)
        for i in range(len(sources))
        if saved(collected, i) is None
    ]
    _all(part.collect, missing, f"{stage.name}: {name} collects", means)
    parts = [found for i in range(len(sources)) if (found := saved(collected, i)) is not None]
    assert len(parts) == len(sources)
    for path in decisions:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
    step.resolve(parts, decisions, memory=means.memory)


def _all(function: Callable[[AnyTask], Any], tasks: Sequence[AnyTask], label: str, means: Means) -> None:
    finish_tasks(function, tasks, engine=means.engine, workers=means.workers, label=label)


def _claim(folder: Path, key: str) -> None:
    """Empty the folder unless what it holds was made under this key."""
    if part.told(folder / KEY).get("key") == key:
        return
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    write_json(folder / KEY, {"key": key}, durable=False)


def _delete_others(stages: Path, ours: Sequence[Path]) -> None:
    for folder in stages.iterdir():
        if folder not in ours:
            shutil.rmtree(folder)


def _tell(stage: Stage, counts: tally.Counts, seconds: float, *, again: bool) -> None:
    kept, came = counts["documents_kept"], counts["documents_in"]
    share = f"{kept / came:.1%}" if came else "none"
    how = (
        "as before" if again else f"{seconds:.1f} s, {counts['bytes_in'] / 1e6 / max(seconds, 1e-9):.1f} MB/s"
    )
    lost = sum(counts["quarantined"].values())
    more = f", {lost:,} in quarantine" if lost else ""
    print(f"{stage.name}: {kept:,} of {came:,} documents stay ({share}{more}), {how}", file=sys.stderr)
