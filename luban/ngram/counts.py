"""Counts of n-grams of integer ids, sorted in chunks that fit the memory and merged on disk.

Ids are 1 to 2^25 - 1: `UNKNOWN`, `START` and `END` first, then words. Sentences end with `END`; `START` is
understood before each. One sorted array of the longest n-grams, backwards, holds the counts of all orders.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from luban.errors import ConfigError
from luban.native import load, pointer

UNKNOWN, START, END, FIRST = 1, 2, 3, 4
"""What is no word: outside the vocabulary, before a sentence, after it; `FIRST` is the first word's id."""
LARGEST = 2**25 - 1
LONGEST = 5
"""The highest order: five ids fill a key."""
BYTES_PER_ID = 64
"""What sorting takes: the id, two copies of its key, the joined key and its count."""


@dataclass(frozen=True)
class Order:
    """All n-grams of one order, sorted by their last word, then the one before it, ..."""

    rows: np.ndarray  # uint32 [n-grams]: the row of the sorted keys where each begins
    occurrences: np.ndarray  # uint32 [n-grams]
    adjusted: np.ndarray  # uint32 [n-grams]: different words before it; occurrences if highest or after <s>
    suffixes: np.ndarray  # uint32 [n-grams]: the index, one order below, of the n-gram without its first word


class Counter:
    """Counts the n-grams of ids that are added; keeps at most about `memory` bytes, the rest in `folder`."""

    def __init__(self, order: int, *, folder: Path, memory: int = 1 << 30) -> None:
        if not 1 <= order <= LONGEST:
            raise ConfigError(f"setting 'order' is {order}", hint=f"1 to {LONGEST}")
        self.order, self.ids, self.sentences = order, 0, 0
        self._folder = folder
        self._chunk = max(memory // BYTES_PER_ID, 1 << 10)
        self._waiting: list[np.ndarray] = []
        self._waits = 0
        self._runs: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, ids: np.ndarray) -> None:
        """Count the n-grams of whole sentences, each with `END` after it."""
        assert ids.dtype == np.uint32
        assert not len(ids) or ids[-1] == END
        self.ids += len(ids)
        self.sentences += int((ids == END).sum())
        if self._waits + len(ids) > self._chunk:
            self._sort(keep=False)
        self._waiting.append(ids)
        self._waits += len(ids)

    def orders(self) -> tuple[np.ndarray, list[Order]]:
        """The sorted keys [n-grams, 2] uint64 of the highest order, and the counts of each order; only once.

        Raises ConfigError for 2^32 words or more: a count might not fit.
        """
        if self.ids >= 2**32:
            raise ConfigError(f"{self.ids:,} words are too many", hint="a part of the text does as well")
        self._sort(keep=not self._runs)
        keys, counts = self._runs[0] if len(self._runs) == 1 else self._merge()
        self._runs = []
        return keys, _split(keys, counts, self.order)

    def _sort(self, *, keep: bool) -> None:
        """Make one sorted run of what waits: in memory, or in files."""
        ids = np.concatenate(self._waiting) if self._waiting else np.zeros(0, np.uint32)
        self._waiting, self._waits = [], 0
        work = np.empty((2 * len(ids), 2), np.uint64)
        keys, counts = np.empty((len(ids), 2), np.uint64), np.empty(len(ids), np.uint32)
        size = _kernel().sort_ngrams(
            pointer(ids, np.uint32),
            ctypes.c_int64(len(ids)),
            self.order,
            pointer(work, np.uint64),
            pointer(keys, np.uint64),
            pointer(counts, np.uint32),
        )
        del work
        run = (keys[:size].copy(), counts[:size].copy())
        self._runs.append(run if keep else self._put_away(run))

    def _put_away(self, run: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        paths = [self._folder / f"run{len(self._runs)}.{name}.npy" for name in ("keys", "counts")]
        for path, array in zip(paths, run, strict=True):
            np.save(path, array)
        keys, counts = (np.load(path, mmap_mode="r") for path in paths)
        return keys, counts

    def _merge(self) -> tuple[np.ndarray, np.ndarray]:
        sizes = np.array([len(keys) for keys, _ in self._runs], np.int64)
        total = int(sizes.sum())
        new = np.lib.format.open_memmap
        keys = new(self._folder / "keys.npy", mode="w+", dtype=np.uint64, shape=(total, 2))
        counts = new(self._folder / "counts.npy", mode="w+", dtype=np.uint32, shape=(total,))
        size = _kernel().merge_runs(
            _addresses([run[0] for run in self._runs]),
            _addresses([run[1] for run in self._runs]),
            pointer(sizes, np.int64),
            ctypes.c_int64(len(sizes)),
            pointer(keys, np.uint64),
            pointer(counts, np.uint32),
        )
        self._runs = []
        with contextlib.suppress(FileNotFoundError):
            for path in self._folder.glob("run*.npy"):
                path.unlink()
        return keys[:size], counts[:size]


def contexts(keys: np.ndarray, n: int, longer: Order, shorter: Order) -> np.ndarray:
    """For each n-gram (n > 2), the index one order below of its context: all but its last word."""
    found = np.empty(len(longer.rows), np.uint32)
    _kernel().find_contexts(
        pointer(keys, np.uint64),
        n,
        pointer(longer.rows, np.uint32),
        ctypes.c_int64(len(longer.rows)),
        pointer(shorter.rows, np.uint32),
        ctypes.c_int64(len(shorter.rows)),
        pointer(found, np.uint32),
    )
    return found


def unpack(keys: np.ndarray, n: int, rows: np.ndarray) -> np.ndarray:
    """The ids [n-grams, n] of the n-grams that begin at `rows`, first word first."""
    ids = np.empty((len(rows), n), np.uint32)
    count = ctypes.c_int64(len(rows))
    _kernel().unpack(pointer(keys, np.uint64), n, pointer(rows, np.uint32), count, pointer(ids, np.uint32))
    return ids


def _split(keys: np.ndarray, counts: np.ndarray, order: int) -> list[Order]:
    sizes = np.zeros(order, np.int64)
    rows = ctypes.c_int64(len(keys))
    _kernel().count_orders(pointer(keys, np.uint64), rows, order, pointer(sizes, np.int64))
    orders = [Order(*(np.empty(size, np.uint32) for _ in range(4))) for size in sizes]
    _kernel().split_orders(
        pointer(keys, np.uint64),
        pointer(counts, np.uint32),
        rows,
        order,
        _addresses([each.rows for each in orders]),
        _addresses([each.occurrences for each in orders]),
        _addresses([each.adjusted for each in orders]),
        _addresses([each.suffixes for each in orders]),
    )
    return orders


def _addresses(arrays: Sequence[np.ndarray]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))


def _kernel() -> ctypes.CDLL:
    library = load(Path(__file__).with_name("counts.cpp"))
    library.sort_ngrams.restype = library.merge_runs.restype = ctypes.c_int64
    return library
