"""Repeated passages of 50 words: collect, resolve and cut, beside only building pydivsufsort's suffix array.

One process each, the same bytes. The suffix array is over bytes, and finding and joining repeats in it comes on top.
"""

from __future__ import annotations

import shutil
import tempfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np

from factory import corpus
from factory.measure import apart, in_turn, rates, save, table
from luban.data.dedup.substrings import Substrings
from luban.data.factory import rows
from luban.data.factory.part import save as save_part
from luban.data.factory.part import saved
from luban.data.step import Batch, Edit

BATCH, MEMORY = 4_000_000, 256_000_000


def run(options: Namespace) -> None:
    path, _ = corpus.planted(options.kind, options.megabytes)
    megabytes = corpus.facts(corpus.load(path))["megabytes"]
    works = in_turn(
        {
            "luban, all three moves": lambda: apart(_substrings, path),
            "pydivsufsort, array only": lambda: apart(_suffix_array, path),
        },
        options.rounds,
    )
    found = {
        "corpus": {"kind": options.kind, "megabytes": megabytes},
        "speed": rates(megabytes, works, "luban, all three moves"),
        "bytes_of_memory_per_byte": {
            side: max(work.grown_mb for work in each) / megabytes for side, each in works.items()
        },
        "cut_chars": works["luban, all three moves"][0].value,
    }
    table(
        f"substrings, {options.kind}: {megabytes} MB, one process, memory={MEMORY / 1e6:g} MB", found["speed"]
    )
    table("bytes of memory per byte of text", [found["bytes_of_memory_per_byte"]])
    print(f"{found['cut_chars']:,} characters cut")
    print(save(f"substrings-{options.kind}", found))


def _substrings(path: Path) -> Callable[[], int]:
    step = Substrings()
    texts = corpus.load(path)
    work = Path(tempfile.mkdtemp())
    _all(step, texts[:20], work / "first")  # loads the libraries

    def measured() -> int:
        try:
            return _all(step, texts, work / "whole")
        finally:
            shutil.rmtree(work)

    return measured


def _all(step: Substrings, texts: list[corpus.Document], folder: Path) -> int:
    """The characters that a run over these documents as one part cuts."""
    save_part(folder, 0, [dict(step.collect(Batch(each))) for each in rows.batches(texts, size=BATCH)])
    part, decisions = saved(folder, 0), folder / "decisions.npy"
    assert part is not None
    step.resolve([part], [decisions], memory=MEMORY)
    first, cut, made = 0, 0, np.load(decisions)
    for each in rows.batches(texts, size=BATCH):
        for document, outcome in zip(each, step.apply(Batch(each, first), made), strict=True):
            cut += len(document.text) - len(outcome.text or "") if isinstance(outcome, Edit) else 0
        first += len(each)
    return cut


def _suffix_array(path: Path) -> Callable[[], int]:
    from pydivsufsort import divsufsort

    whole = bytearray("\x00".join(document.text for document in corpus.load(path)).encode())
    return lambda: len(divsufsort(np.frombuffer(whole, np.uint8)))
