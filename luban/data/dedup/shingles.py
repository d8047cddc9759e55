"""Shingles: every run of n words of a text as 32 bits, the raw material of MinHash, SimHash and Jaccard."""

from __future__ import annotations

from ctypes import c_int64
from pathlib import Path

import numpy as np

from luban import native
from luban.data.step import Packed

_SOURCE = Path(__file__).with_name("shingles.cpp")


def shingles(packed: Packed, ngram: int) -> tuple[np.ndarray, np.ndarray]:
    """All texts' shingles end to end (uint32, in order, repeats kept), and how many each text has (int64).

    Words are runs of letters and figures in lower case, and single ideographs; every sign parts them, so that
    `os.path.join` is three, whatever stands around it. A text of fewer than `ngram` words is one shingle; one without
    words has none.
    """
    library = native.load(_SOURCE)
    library.shingles.restype = c_int64
    out = np.empty(int(packed.lengths.sum()), np.uint32)  # pages that nothing is written to cost no memory
    counts = np.empty(len(packed.starts), np.int64)
    total = library.shingles(
        *packed.arguments,
        c_int64(ngram),
        native.pointer(np.zeros(ngram, np.uint64), np.uint64),
        native.pointer(out, np.uint32),
        native.pointer(counts, np.int64),
    )
    return out[:total].copy(), counts
