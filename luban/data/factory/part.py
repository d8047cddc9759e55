"""One part through one stage: read, decide, write what stays and what goes, remember for the next corpus step.

This runs in worker processes, anywhere: a task names files and steps, its result is files and a dict of counts.
The counts are written last, so a part either has them and is whole, or is done again. They tell the size of each
file: nothing waits for the disk, and what a power cut has cut short is seen.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from luban.data.document import Document, RecordError
from luban.data.factory import rows, tally
from luban.data.factory.rows import Files, Writer
from luban.data.sources import Options, Slice, read_slice
from luban.data.step import Batch, CorpusStep, Drop, Outcome, Step
from luban.errors import DataError
from luban.folder import atomic_file, read_json, write_bytes

SHOWN = 2000
"""Characters of a document in quarantine that are shown."""
BROKEN = Drop("quarantine")
"""The outcome of a document that broke a step: it is in quarantine, not among the rejected."""


@dataclass(frozen=True)
class Reading:
    """How raw files are read."""

    options: Options
    strict: bool = False
    """A record that cannot be read stops the run."""


@dataclass(frozen=True)
class Task:
    """Part `index` of a stage."""

    folder: Path
    index: int
    source: Path | tuple[Slice, ...]
    """The part's documents in the stage before, or pieces of raw files."""
    reading: Reading
    corpus: tuple[str, CorpusStep] | None
    decisions: Path | None
    steps: tuple[tuple[str, Step], ...]
    following: CorpusStep | None
    """What wants to collect from the documents that stay."""
    collected: Path | None
    """The folder for that."""
    batch_chars: int

    @property
    def files(self) -> Files:
        return Files(self.folder, self.index)


def process(task: Task) -> int:
    """Do the part; returns its index. Everything it made is on disk, the counts last."""
    files = task.files
    with (
        Writer(files.of("kept"), durable=False) as kept,
        Writer(files.of("rejected"), durable=False) as rejected,
        Writer(files.of("quarantine"), durable=False) as quarantine,
    ):
        work = _Work(task, kept, rejected, quarantine)
        for batch in rows.batches(work.read(), size=task.batch_chars):
            work.through(batch)
    if task.following is not None and task.collected is not None:
        save(task.collected, task.index, work.collected)
    written = {kind: files.of(kind).stat().st_size for kind in ("kept", "rejected", "quarantine")}
    _note(files.of("stats", "json"), work.counts | {"written": written})
    return task.index


def is_done(files: Files) -> bool:
    """Whether the part's counts are there, and its files as long as they say."""
    sizes = told(files.of("stats", "json")).get("written", {})
    return bool(sizes) and all(_is_whole(files.of(kind), size) for kind, size in sizes.items())


@dataclass(frozen=True)
class Collecting:
    """The documents that stay in part `index` of a finished stage, once more for a new corpus step."""

    kept: Path
    index: int
    step: CorpusStep
    collected: Path
    batch_chars: int


def collect(task: Collecting) -> int:
    """Collect for the step; returns the part's index."""
    gathered, first = [dict(task.step.collect(Batch(())))], 0
    for documents in rows.batches(rows.read(task.kept), size=task.batch_chars):
        gathered.append(dict(task.step.collect(Batch(documents, first))))
        first += len(documents)
    save(task.collected, task.index, gathered)
    return task.index


def save(folder: Path, index: int, gathered: Sequence[Mapping[str, np.ndarray]]) -> None:
    """One `.npy` per name, joined over batches; `00000.json` tells their sizes when all are there."""
    sizes: dict[str, int] = {}
    for name in gathered[0]:
        path = folder / f"{name}-{index:05d}.npy"
        with atomic_file(path, durable=False) as work, work.open("wb") as file:
            np.save(file, np.concatenate([arrays[name] for arrays in gathered]))
        sizes[name] = path.stat().st_size
    _note(folder / f"{index:05d}.json", sizes)


def saved(folder: Path, index: int) -> dict[str, Path] | None:
    """The files that `save` made, by name; None if they are not all there, whole."""
    sizes = told(folder / f"{index:05d}.json")
    paths = {name: folder / f"{name}-{index:05d}.npy" for name in sizes}
    return paths if sizes and all(_is_whole(paths[name], size) for name, size in sizes.items()) else None


def told(path: Path) -> dict[str, Any]:
    """What the JSON file tells; nothing if it is missing or cut short."""
    try:
        return read_json(path)
    except DataError:
        return {}


def _note(path: Path, facts: Mapping[str, Any]) -> None:
    write_bytes(path, orjson.dumps(facts), durable=False)


def _is_whole(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def rejected_row(error: RecordError, shown: str) -> bytes:
    """The line that tells of a record that is not a document: its reason, place, and how it begins."""
    row = {"reason": error.reason, "where": str(error.where), "error": error.what, "shown": shown}
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


@dataclass
class _Work:
    """The state of one part on its way: open files and counts."""

    task: Task
    kept: Writer
    rejected: Writer
    quarantine: Writer
    counts: tally.Counts = field(default_factory=tally.empty)
    collected: list[dict[str, np.ndarray]] = field(default_factory=list)
    first: int = 0
    first_kept: int = 0

    def __post_init__(self) -> None:
        self.decisions = None if self.task.decisions is None else np.load(self.task.decisions)
        if self.task.following is not None:
            self.collected.append(dict(self.task.following.collect(Batch(()))))

    def read(self) -> Iterator[Document]:
        source, reading = self.task.source, self.task.reading
        if isinstance(source, Path):
            yield from rows.read(source)
            return
        for piece in source:
            reject = None if reading.strict else self._reject
            yield from read_slice(piece, options=reading.options, reject=reject)

    def _reject(self, error: RecordError, shown: str) -> None:
        self.quarantine.write(rejected_row(error, shown))
        tally.add(self.counts["quarantined"], {error.reason: 1})

    def through(self, documents: list[Document]) -> None:
        """A batch through all steps, to its files."""
        batch = Batch(documents, self.first)
        self.first += len(documents)
        self.counts["documents_in"] += len(documents)
        self.counts["bytes_in"] += sum(batch.sizes)
        if self.task.corpus is not None:
            batch = self._corpus(batch)
        for name, step in self.task.steps:
            batch = self._settle(name, batch, self._judge(name, step, batch))
        self._keep(batch)

    def _corpus(self, batch: Batch) -> Batch:
        assert self.task.corpus is not None
        assert self.decisions is not None
        name, step = self.task.corpus
        started = time.perf_counter()
        outcomes = step.apply(batch, self.decisions)
        tally.add(self.counts["seconds"], {name: time.perf_counter() - started})
        return self._settle(name, batch, outcomes)

    def _judge(self, name: str, step: Step, batch: Batch) -> Sequence[Outcome]:
        """The step's outcomes; where it fails on the batch, one document after the other, to find the one."""
        started = time.perf_counter()
        try:
            return step(batch) if batch.documents else []
        except Exception:  # noqa: BLE001 - whatever a record does to a step, the others go on
            return [self._judge_alone(name, step, document) for document in batch.documents]
        finally:
            tally.add(self.counts["seconds"], {name: time.perf_counter() - started})

    def _judge_alone(self, name: str, step: Step, document: Document) -> Outcome:
        try:
            (outcome,) = step(Batch((document,)))
        except Exception as error:  # noqa: BLE001 - it goes to quarantine with its error
            why = RecordError(f"{type(error).__name__}: {error}", reason=f"{name}_failed", where=document.id)
            self._reject(why, document.text[:SHOWN])
            return BROKEN
        return outcome

    def _settle(self, name: str, batch: Batch, outcomes: Sequence[Outcome]) -> Batch:
        """The documents that stay, edited; the others are written with the reason."""
        count = len(batch.documents)
        assert len(outcomes) == count, f"{name}: {len(outcomes)} outcomes of {count}"
        if not any(outcomes):
            return batch
        stay, places, same_texts = list[Document](), list[int](), True
        dropped: dict[str, dict[str, int]] = {}
        for place, (document, outcome) in enumerate(zip(batch.documents, outcomes, strict=True)):
            if isinstance(outcome, Drop):
                self._drop(name, document, outcome, batch.sizes[place], dropped)
                continue
            if outcome is not None:
                same_texts &= outcome.text is None
                if outcome.changes:
                    tally.add(self.counts["changed"], {name: dict(outcome.changes)})
                document = rows.edited(document, outcome)
            stay.append(document)
            places.append(place)
        tally.add(self.counts["dropped"], {name: dropped} if dropped else {})
        return batch.narrowed(stay, places) if same_texts else Batch(stay)

    def _drop(
        self, name: str, document: Document, drop: Drop, size: int, dropped: dict[str, dict[str, int]]
    ) -> None:
        if drop is BROKEN:
            return
        why = {"step": name, "reason": drop.reason, "value": drop.value}
        self.rejected.write(rows.dump(document, dropped=why))
        cell = dropped.setdefault(drop.reason, {"documents": 0, "bytes": 0})
        cell["documents"] += 1
        cell["bytes"] += size

    def _keep(self, batch: Batch) -> None:
        self.kept.write_all(map(rows.dump, batch.documents))
        tally.describe(self.counts, batch.documents, batch.sizes)
        count = len(batch.documents)
        self.counts["documents_kept"] += count
        self.counts["bytes_kept"] += sum(batch.sizes)
        if self.task.following is not None:
            last = batch.narrowed(batch.documents, range(count), self.first_kept)
            self.collected.append(dict(self.task.following.collect(last)))
            self.first_kept += count
