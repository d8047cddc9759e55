"""1, 3 and 10 million short documents: signatures, groups and the split in one process under one bound of memory.

Documents are drawn, not read: 60 words of a made-up vocabulary, one in twenty a copy of the one before with a word
changed. Parts lie on disk as the factory leaves them (about 370 bytes a document, and 140 more while groups are
found), so only what grows with the number of documents grows in memory.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from factory.measure import apart, save, table
from luban.data.dedup.minhash import MinHash
from luban.data.document import Document
from luban.data.factory import part
from luban.data.factory.split import HOLDOUT, Split
from luban.data.step import Batch, CorpusStep

MILLIONS = (1, 3, 10)
PART, BATCH = 50_000, 10_000
"""Documents."""
WORDS, VOCABULARY, COPIED = 60, 30_000, 0.05
MEMORY = 1_000_000_000
STEPS: dict[str, CorpusStep] = {"minhash": MinHash(), "split": Split()}


@dataclass(frozen=True)
class Collected:
    """What was remembered of so many documents."""

    megabytes: float
    seconds: Mapping[str, float]
    """CPU seconds of each step, drawing the documents left out."""


def run(options: Namespace) -> None:
    found: dict[str, Any] = {"memory_gb": MEMORY / 1e9, "sizes": []}
    for millions in (size for size in MILLIONS if size <= options.most):
        with TemporaryDirectory(dir=options.scratch) as name:
            found["sizes"].append(_row(Path(name), millions))
        save("many", found)
    table(f"documents of {WORDS} words, one process, memory {MEMORY / 1e9:g} GB", found["sizes"])
    print(save("many", found))


def _row(folder: Path, millions: int) -> dict[str, Any]:
    parts = millions * 1_000_000 // PART
    collecting = apart(_collecting, folder, parts)
    collected: Collected = collecting.value
    resolving = {name: apart(_resolving, folder, parts, name) for name in STEPS}
    return {
        "million": millions,
        "MB": round(collected.megabytes),
        "signatures, MB per CPU s": collected.megabytes / collected.seconds["minhash"],
        "memory grows MB": round(collecting.grown_mb),
        "groups, CPU s per million": resolving["minhash"].cpu_s / millions,
        "memory grows MB (groups)": round(resolving["minhash"].grown_mb),
        "dropped": resolving["minhash"].value,
        "split, CPU s per million": resolving["split"].cpu_s / millions,
        "memory grows MB (split)": round(resolving["split"].grown_mb),
    }


def _collecting(folder: Path, parts: int) -> Callable[[], Collected]:
    for step in STEPS.values():
        step.collect(Batch(next(_drawn(0))))  # loads the libraries
    return lambda: _collect(folder, parts)


def _collect(folder: Path, parts: int) -> Collected:
    size, seconds = 0, dict.fromkeys(STEPS, 0.0)
    for index in range(parts):
        gathered: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in STEPS}
        for documents in _drawn(index):
            batch = Batch(documents)
            size += int(batch.packed.lengths.sum())
            for name, step in STEPS.items():
                began = time.process_time()
                gathered[name].append(dict(step.collect(batch)))
                seconds[name] += time.process_time() - began
        for name, arrays in gathered.items():
            part.save(folder / name, index, arrays)
    return Collected(size / 1e6, seconds)


def _resolving(folder: Path, parts: int, name: str) -> Callable[[], int]:
    def resolve() -> int:
        found = [paths for index in range(parts) if (paths := part.saved(folder / name, index))]
        decisions = [folder / name / "decisions" / f"{index:05d}.npy" for index in range(parts)]
        for path in decisions:
            path.parent.mkdir(exist_ok=True)
        STEPS[name].resolve(found, decisions, memory=MEMORY)
        return _changed(decisions, name)

    return resolve


def _changed(decisions: list[Path], name: str) -> int:
    """Documents that are dropped, or held out."""
    if name == "minhash":
        return sum(int((np.load(path)[:, 0] >= 0).sum()) for path in decisions)
    return sum(int((np.load(path)["side"] == HOLDOUT).sum()) for path in decisions)


def _drawn(index: int) -> Iterator[list[Document]]:
    """The documents of a part in batches, always the same."""
    chance = np.random.default_rng(index)
    for start in range(0, PART, BATCH):
        picked = chance.integers(VOCABULARY, size=(BATCH, WORDS))
        for copy in np.flatnonzero(chance.random(BATCH - 1) < COPIED) + 1:
            picked[copy] = picked[copy - 1]
            picked[copy, chance.integers(WORDS)] = chance.integers(VOCABULARY)
        texts = (" ".join(map(_vocabulary().__getitem__, row)) for row in picked.tolist())
        first = index * PART + start
        yield [
            Document(id=f"drawn-{first + place}", text=text, source="drawn")
            for place, text in enumerate(texts)
        ]


@cache
def _vocabulary() -> list[str]:
    chance = np.random.default_rng(2026)
    letters = np.array(list("etaoinshrdlucmfwyp"))
    return ["".join(chance.choice(letters, chance.integers(2, 10))) for _ in range(VOCABULARY)]
