"""`luban data mix`: several corpora as one, each with its share, in one global shuffle of bounded memory.

Two passes: each document goes to a bucket by the hash of its id (as often as its source's epochs ask), then each
bucket is sorted by that hash. So the result depends on the documents and the seed alone, not on the order of
files, the number of processes or the memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import math
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Gt

from luban.data.document import Document
from luban.data.factory.engine import run_tasks, workers_here
from luban.data.factory.publish import HOLDOUT, join
from luban.data.factory.rows import Writer, dump
from luban.data.sources import document_files, read_documents
from luban.errors import ConfigError, DataError
from luban.folder import stage_folder

KEY_BYTES = 8
SHARE_OF_BUCKET = 8
"""A bucket is sorted in an 8th of a worker's memory: its lines are held once, with Python's overhead."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Several documents folders as one, each source with its share, shuffled over all."""

    POSITIONAL: ClassVar[str] = "data"

    data: tuple[Path, ...]
    """Documents folders, one per source; their held-out parts are put together unchanged."""
    out: Path
    """The documents folder to make."""
    weights: tuple[Annotated[float, Gt(0)], ...] = ()
    """Share of the bytes that each folder gets, relative to the others; without them as `temperature` says."""
    temperature: Annotated[float, Ge(1)] = 1.0
    """Shares by size^(1/temperature): 1 keeps the sizes' proportions, more lifts small sources."""
    max_epochs: Annotated[float, Gt(0)] = 1.0
    """How often a document may come at most; what a source lacks for its share goes to the others."""
    megabytes: Annotated[float, Ge(0)] = 0.0
    """Text to draw; 0 draws what the shares allow before a source reaches `max_epochs`."""
    seed: int = 0
    """Another seed draws and shuffles differently."""
    workers: Annotated[int, Ge(0)] = 0
    """Processes; 0 takes one per core."""
    memory: Annotated[float, Ge(0.01)] = 2.0
    """Gigabytes that all processes together may take, about."""


@dataclass(frozen=True)
class Scatter:
    """First pass over one file of a source: lines to bucket files."""

    file: Path
    name: str
    epochs: float
    seed: int
    buckets: int
    folder: Path
    held: Path | None
    """Texts in this file stay out: they are held out in some source."""


@dataclass(frozen=True)
class Sort:
    """Second pass over one bucket."""

    pieces: tuple[Path, ...]
    out: Path


def run(config: Config) -> dict[str, Any]:
    """Make the folder; returns epochs, documents and bytes of each source."""
    sources = {str(path): document_files(path) for path in config.data}
    if len(sources) < len(config.data):
        raise ConfigError("a folder is named twice", where="setting 'data'", hint="give it a larger weight")
    workers = workers_here(config.workers)
    with stage_folder(config.out, stage="data mix", config=config, inputs=config.data) as (folder, metrics):
        every = [file for files in sources.values() for file in files]
        sizes = dict(run_tasks(_measure, every, engine="pool", workers=workers))
        totals = [sum(sizes[file] for file in files) for files in sources.values()]
        epochs = plan_epochs(totals, _weights(config, totals), config.max_epochs, config.megabytes * 1e6)
        drawn = sum(times * size for times, size in zip(epochs, totals, strict=True))
        buckets = max(1, math.ceil(drawn * SHARE_OF_BUCKET * workers / (config.memory * 1e9)))
        work = folder / ".buckets"
        held = _join_holdouts(config.data, folder)
        scatter = [
            Scatter(file, name, times, config.seed, buckets, work / f"{number:05d}-{at}", held)
            for number, ((name, files), times) in enumerate(zip(sources.items(), epochs, strict=True))
            for at, file in enumerate(files)
        ]
        counted = list(run_tasks(_scatter, scatter, engine="pool", workers=workers))
        sort = [
            Sort(tuple(task.folder / f"{b:05d}" for task in scatter), folder / f"train-{b:05d}.jsonl")
            for b in range(buckets)
        ]
        list(run_tasks(_sort, sort, engine="pool", workers=workers))
        shutil.rmtree(work)
        metrics.update(_report(sources, epochs, counted))
    _warn(config, metrics)
    return metrics


def show(results: dict[str, Any]) -> None:
    """Each source on a line."""
    for name, row in results["sources"].items():
        print(
            f"{row['share']:>6.1%}  {row['epochs']:>6.2f} epochs  {row['documents']:>12,} documents"
            f"  {row['bytes'] / 1e6:>10,.1f} MB  {name}"
        )


def plan_epochs(
    sizes: Sequence[int], weights: Sequence[float], max_epochs: float, total: float
) -> list[float]:
    """How often each source is gone through, for shares after `weights` of `total` bytes.

    With `total` 0: as much as all shares hold exactly. Otherwise a source at `max_epochs` leaves the rest to the
    others by their weights (UniMax, Chung et al. 2023), and if all are there, less than `total` comes.
    """
    limits = [size * max_epochs for size in sizes]
    if not total:
        total = min(limit / weight for limit, weight in zip(limits, weights, strict=True)) * sum(weights)
    taken = [0.0] * len(sizes)
    active = set(range(len(sizes)))
    while active:
        left = total - sum(taken[i] for i in range(len(sizes)) if i not in active)
        share = left / sum(weights[i] for i in active)
        full = {i for i in active if weights[i] * share >= limits[i] * (1 + 1e-12)}
        for i in active:
            taken[i] = limits[i] if i in full else weights[i] * share
        active -= full
        if not full:
            break
    return [bytes_ / size for bytes_, size in zip(taken, sizes, strict=True)]


def copies(key: int, epochs: float) -> int:
    """How often a document comes: the whole epochs, and once more if its key falls into the fraction."""
    whole = int(epochs)
    return whole + (key < (epochs - whole) * 2**64)


def _weights(config: Config, sizes: Sequence[int]) -> list[float]:
    if not all(sizes):
        empty = config.data[[*sizes].index(0)]
        raise DataError("no text in this source", where=empty)
    if not config.weights:
        return [size ** (1 / config.temperature) for size in sizes]
    if len(config.weights) != len(sizes):
        what = f"{len(config.weights)} weights for {len(sizes)} folders"
        raise ConfigError(what, where="setting 'weights'", hint="give one weight per folder")
    return list(config.weights)


def _measure(file: Path) -> tuple[Path, int]:
    return file, sum(len(document.text.encode("utf-8")) for document in read_documents([file]))


def _scatter(task: Scatter) -> dict[str, Any]:
    """Write each drawn document, with its key before it, to its bucket; returns what was drawn."""
    counts = {"name": task.name, "documents": 0, "bytes": 0, "held_out_elsewhere": 0}
    held = _texts(task.held) if task.held else frozenset[int]()
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(Writer(task.folder / f"{b:05d}")) for b in range(task.buckets)]
        for document in read_documents([task.file]):
            if held and _key(0, "text", "", document.text) in held:
                counts["held_out_elsewhere"] += 1
                continue
            for key, copy in _drawn(document, task):
                files[key * task.buckets >> 64].write(key.to_bytes(KEY_BYTES, "big").hex().encode())
                files[key * task.buckets >> 64].write(dump(copy))
                counts["documents"] += 1
                counts["bytes"] += len(document.text.encode("utf-8"))
    return counts


def _drawn(document: Document, task: Scatter) -> Iterator[tuple[int, Document]]:
    """The document as often as it is drawn, each with its place in the shuffle; later copies get own ids."""
    draw = _key(task.seed, "draw", document.id, document.text)
    for copy in range(copies(draw, task.epochs)):
        named = dataclasses.replace(document, id=f"{document.id}#{copy + 1}") if copy else document
        yield _key(task.seed, f"place {copy}", document.id, document.text), named


@functools.cache
def _texts(file: Path) -> frozenset[int]:
    return frozenset(_key(0, "text", "", document.text) for document in read_documents([file]))


def _sort(task: Sort) -> None:
    lines = sorted(line for piece in task.pieces for line in _lines(piece))
    with Writer(task.out) as out:
        for line in lines:
            out.write(line[2 * KEY_BYTES :])
    for piece in task.pieces:
        piece.unlink()


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file


def _key(seed: int, use: str, identity: str, text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=KEY_BYTES, key=f"{seed} {use}".encode())
    digest.update(b"\0" + identity.encode("utf-8"))
    return int.from_bytes(digest.digest(), "big")


def _join_holdouts(paths: Sequence[Path], folder: Path) -> Path | None:
    held = [path / HOLDOUT for path in paths if (path / HOLDOUT).is_file()]
    if held:
        join(held, folder / HOLDOUT)
    return folder / HOLDOUT if held else None


def _report(
    sources: dict[str, list[Path]], epochs: Sequence[float], counted: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    total = sum(row["bytes"] for row in counted)
    rows = {}
    for name, times in zip(sources, epochs, strict=True):
        mine = [row for row in counted if row["name"] == name]
        size = sum(row["bytes"] for row in mine)
        documents = sum(row["documents"] for row in mine)
        rows[name] = {"epochs": round(times, 4), "share": size / total, "documents": documents, "bytes": size}
    sums = {name: sum(row[name] for row in counted) for name in ("documents", "held_out_elsewhere")}
    return {"sources": rows, **sums, "bytes": total}


def _warn(config: Config, metrics: dict[str, Any]) -> None:
    if config.megabytes and metrics["bytes"] < 0.98 * config.megabytes * 1e6:
        print(
            f"data mix: {metrics['bytes'] / 1e6:,.1f} of {config.megabytes:,.1f} MB asked for: every source is at"
            f" max_epochs={config.max_epochs:g}",
            file=sys.stderr,
        )
