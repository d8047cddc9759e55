"""MinHash signatures: the chance that two texts agree in one value is the Jaccard similarity of their shingles."""

from __future__ import annotations

import functools
import hashlib
from ctypes import CDLL, c_int64
from pathlib import Path

import numpy as np

from luban import native

LANES = 16
"""The kernel computes so many hash functions at once."""
_SOURCE = Path(__file__).with_name("minhash.cpp")


def signatures(items: np.ndarray, counts: np.ndarray, hashes: int, *, seed: int = 0) -> np.ndarray:
    """Each text's smallest value under each of `hashes` functions; uint32 [texts, hashes].

    `items`, `counts`: what `shingles` returned. Function h takes a 32-bit shingle s to (s xor a_h) * b_h, a
    permutation as b_h is odd. Each function sees each shingle: 16 functions fill a vector, so 112 of them cost
    a small part of finding the words, and one-permutation hashing would save that part at the price of recall.
    Another `seed` draws other functions; what they find differs only by chance.
    """
    masks, factors = _functions(hashes, seed)
    out = np.empty((len(counts), len(masks)), np.uint32)
    _library().signatures(
        native.pointer(items, np.uint32),
        native.pointer(counts, np.int64),
        c_int64(len(counts)),
        native.pointer(masks, np.uint32),
        native.pointer(factors, np.uint32),
        c_int64(len(masks)),
        native.pointer(out, np.uint32),
    )
    return out[:, :hashes]


def band_keys(values: np.ndarray, counts: np.ndarray, *, bands: int, rows: int) -> np.ndarray:
    """64 bits for each band of `rows` values; uint64 [texts, bands]. A text without shingles gets 0, no other."""
    values = np.ascontiguousarray(values)
    assert bands * rows <= values.shape[1]
    out = np.empty((len(counts), bands), np.uint64)
    _library().band_keys(
        native.pointer(values, np.uint32),
        native.pointer(counts, np.int64),
        c_int64(len(counts)),
        c_int64(values.shape[1]),
        c_int64(bands),
        c_int64(rows),
        native.pointer(out, np.uint64),
    )
    return out


@functools.cache
def _functions(hashes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """a and b of each function: always the same of a seed, rounded up to whole vectors."""
    whole = -(-hashes // LANES) * LANES
    names = [f"luban minhash {name}{seed or ''}" for name in "ab"]
    drawn = [hashlib.shake_128(name.encode()).digest(4 * whole) for name in names]
    masks, factors = (np.frombuffer(digest, "<u4").astype(np.uint32) for digest in drawn)
    return masks, factors | np.uint32(1)


def _library() -> CDLL:
    return native.load(_SOURCE)
