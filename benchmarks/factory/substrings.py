"""Repeated passages of 50 words: collect, resolve and cut, beside only building pydivsufsort's suffix array.

The same bytes. The suffix array is over bytes, and finding and joining repeats in it comes on top. Two processes
collect and cut a half each; one of them resolves in between, for that knows the whole corpus.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from factory import corpus
from factory.measure import Work, apart, clock_rates, in_turn, meet, rates, save, table, together
from luban.data.dedup.substrings import Substrings
from luban.data.factory import rows
from luban.data.factory.part import save as save_part
from luban.data.factory.part import saved
from luban.data.step import Batch, Edit

BATCH, MEMORY = 4_000_000, 256_000_000
ONE, TWO, PEER = "luban, all three moves", "luban, two processes", "pydivsufsort, array only"


def run(options: Namespace) -> None:
    path, _ = corpus.planted(options.kind, options.megabytes)
    megabytes = corpus.facts(corpus.load(path))["megabytes"]
    works = in_turn(
        {
            ONE: lambda: _measured(path, 1),
            TWO: lambda: _measured(path, 2),
            PEER: lambda: apart(_suffix_array, path),
        },
        options.rounds,
    )
    cut = {work.value for side in (ONE, TWO) for work in works[side]}
    assert len(cut) == 1, f"one and two processes cut {cut} characters"
    found = {
        "corpus": {"kind": options.kind, "megabytes": megabytes},
        "speed": rates(megabytes, works, ONE),
        "clock": clock_rates(megabytes, works),
        "bytes_of_memory_per_byte": {
            side: max(work.grown_mb for work in each) / megabytes for side, each in works.items()
        },
        "cut_chars": cut.pop(),
    }
    table(f"substrings, {options.kind}: {megabytes} MB, memory={MEMORY / 1e6:g} MB", found["speed"])
    table("by the clock", found["clock"])
    table("bytes of memory per byte of text", [found["bytes_of_memory_per_byte"]])
    print(f"{found['cut_chars']:,} characters cut")
    print(save(f"substrings-{options.kind}", found))


def _measured(path: Path, parts: int) -> Work:
    with tempfile.TemporaryDirectory() as folder:
        each = [(path, Path(folder), part, parts) for part in range(parts)]
        return together(_substrings, each) if parts > 1 else apart(_substrings, *each[0])


def _substrings(path: Path, folder: Path, part: int, parts: int) -> Callable[[], int]:
    step, documents = Substrings(), corpus.load(path)
    with tempfile.TemporaryDirectory() as first:  # loads the libraries
        _collect(step, documents[:20], Path(first), 0)
        _resolve(step, Path(first), 1)
        _cut(step, documents[:20], Path(first), 0)
    mine = documents[part * len(documents) // parts : (part + 1) * len(documents) // parts]
    del documents

    def measured() -> int:
        """The characters that are cut out of this process's documents."""
        _collect(step, mine, folder, part)
        meet()
        if part == 0:
            _resolve(step, folder, parts)
        meet()
        return _cut(step, mine, folder, part)

    return measured


def _collect(step: Substrings, documents: Sequence[corpus.Document], folder: Path, part: int) -> None:
    batches = rows.batches(documents, size=BATCH)
    save_part(folder, part, [dict(step.collect(Batch(each))) for each in batches])


def _resolve(step: Substrings, folder: Path, parts: int) -> None:
    collected = [saved(folder, part) for part in range(parts)]
    assert None not in collected
    decisions = [_decisions(folder, part) for part in range(parts)]
    step.resolve([each for each in collected if each], decisions, memory=MEMORY)


def _cut(step: Substrings, documents: Sequence[corpus.Document], folder: Path, part: int) -> int:
    first, cut, made = 0, 0, np.load(_decisions(folder, part))
    for each in rows.batches(documents, size=BATCH):
        for document, outcome in zip(each, step.apply(Batch(each, first), made), strict=True):
            cut += len(document.text) - len(outcome.text or "") if isinstance(outcome, Edit) else 0
        first += len(each)
    return cut


def _decisions(folder: Path, part: int) -> Path:
    return folder / f"decisions{part}.npy"


def _suffix_array(path: Path) -> Callable[[], int]:
    from pydivsufsort import divsufsort

    whole = bytearray("\x00".join(document.text for document in corpus.load(path)).encode())
    return lambda: len(divsufsort(np.frombuffer(whole, np.uint8)))
