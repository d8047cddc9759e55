"""Counts of n-grams of integer ids: sorted in chunks that fit the memory, merged on disk, read order by order.

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
"""What sorting takes: the id, its key twice at most, its count; and room for what one order's figures take."""


@dataclass(frozen=True)
class Order:
    """All n-grams of one order, sorted by their last word, then the one before it, ..."""

    firsts: np.ndarray  # uint32 [n-grams]: the id of the first word
    suffixes: np.ndarray  # uint32 [n-grams]: the index, one order below, of the n-gram without its first word
    adjusted: np.ndarray  # uint32 [n-grams]: different words before it; occurrences if highest or after <s>
    kept: np.ndarray  # bool [n-grams]: whether it occurred often enough

    def only_kept(self) -> Order:
        """Those that occurred often enough; suffixes still count all of the order below."""
        return Order(*(each[self.kept] for each in (self.firsts, self.suffixes, self.adjusted, self.kept)))


class Counter:
    """Counts the n-grams of ids that are added; keeps at most about `memory` bytes, the rest in `folder`."""

    def __init__(self, order: int, *, folder: Path, memory: int = 1 << 30) -> None:
        if not 1 <= order <= LONGEST:
            raise ConfigError(f"setting 'order' is {order}", hint=f"1 to {LONGEST}")
        self.order, self.ids, self.sentences = order, 0, 0
        self._folder = folder
        self._chunk = max(memory // BYTES_PER_ID, 1 << 10)
        self._waiting = np.empty(self._chunk, np.uint32)  # unwritten pages cost no memory
        self._waits = 0
        self._runs: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, ids: np.ndarray) -> None:
        """Count the n-grams of whole sentences, each with `END` after it."""
        assert ids.dtype == np.uint32
        assert not len(ids) or ids[-1] == END
        self.ids += len(ids)
        self.sentences += int((ids == END).sum())
        if self._waits + len(ids) > len(self._waiting):
            self._sort(keep=False)
        if len(ids) > len(self._waiting):
            self._waiting = np.empty(len(ids), np.uint32)
        self._waiting[self._waits : self._waits + len(ids)] = ids
        self._waits += len(ids)

    def counts(self) -> Counts:
        """What was counted; only once.

        Raises ConfigError for 2^32 words or more: a count might not fit.
        """
        if self.ids >= 2**32:
            raise ConfigError(f"{self.ids:,} words are too many", hint="a part of the text does as well")
        self._sort(keep=not self._runs)
        self._waiting = np.empty(0, np.uint32)
        keys, counts = self._runs[0] if len(self._runs) == 1 else self._merge()
        self._runs = []
        return Counts(keys, counts, self.order)

    def _sort(self, *, keep: bool) -> None:
        """Make one sorted run of what waits: in memory, or in files."""
        keys, counts = np.empty((self._waits, 2), np.uint64), np.empty(self._waits, np.uint32)
        size = _kernel().sort_ngrams(
            pointer(self._waiting, np.uint32),
            ctypes.c_int64(self._waits),
            self.order,
            pointer(keys, np.uint64),
            pointer(counts, np.uint32),
        )
        self._waits = 0
        run = (keys[:size], counts[:size])
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


class Counts:
    """The n-grams of the highest order, sorted and counted; `read` gives those of any order."""

    def __init__(self, keys: np.ndarray, counts: np.ndarray, order: int) -> None:
        self.order = order
        self._keys, self._counts = keys, counts
        self._shared, self._sizes = np.empty(len(keys), np.uint8), np.zeros(order, np.int64)
        _kernel().compare_neighbours(
            pointer(keys, np.uint64),
            ctypes.c_int64(len(keys)),
            order,
            pointer(self._shared, np.uint8),
            pointer(self._sizes, np.int64),
        )

    def read(self, n: int, *, limit: int, occurrences: bool = False) -> Order:
        """The n-grams of `n` words, and which of them occurred more than `limit` times.

        With `occurrences` that is what `adjusted` holds, of every order.
        """
        size = self._sizes[n - 1]
        order = Order(*(np.empty(size, dtype) for dtype in (np.uint32, np.uint32, np.uint32, np.bool_)))
        _kernel().read_order(
            pointer(self._keys, np.uint64),
            pointer(self._counts, np.uint32),
            pointer(self._shared, np.uint8),
            ctypes.c_int64(len(self._keys)),
            n,
            occurrences or n == self.order,
            ctypes.c_uint32(min(limit, 2**32 - 1)),
            pointer(order.firsts, np.uint32),
            pointer(order.suffixes, np.uint32),
            pointer(order.adjusted, np.uint32),
            pointer(order.kept, np.bool_),
        )
        return order

    def ids(self, n: int, kept: np.ndarray, *, last: int | None = None) -> np.ndarray:
        """The ids [n-grams, n] of the n-grams of `n` words that are `kept`, first word first; or the `last` few."""
        words = last or n
        ids = np.empty((np.count_nonzero(kept), words), np.uint32)
        _kernel().unpack(
            pointer(self._keys, np.uint64),
            pointer(self._shared, np.uint8),
            ctypes.c_int64(len(self._keys)),
            n,
            words,
            pointer(kept, np.bool_),
            pointer(ids, np.uint32),
        )
        return ids


def find_contexts(longer: Order, shorter: Order, shorter_contexts: np.ndarray, lower: int) -> np.ndarray:
    """For each n-gram (n > 2), the index one order below of its context: all but its last word.

    `shorter_contexts` are those of the order below, as indices of the `lower` n-grams below that.
    """
    found = np.empty(len(longer.firsts), np.uint32)
    _kernel().find_contexts(
        pointer(longer.firsts, np.uint32),
        pointer(longer.suffixes, np.uint32),
        ctypes.c_int64(len(found)),
        pointer(shorter_contexts, np.uint32),
        pointer(shorter.firsts, np.uint32),
        pointer(shorter.suffixes, np.uint32),
        ctypes.c_int64(len(shorter.firsts)),
        ctypes.c_int64(lower),
        pointer(found, np.uint32),
    )
    return found


def _addresses(arrays: Sequence[np.ndarray]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))


def _kernel() -> ctypes.CDLL:
    library = load(Path(__file__).with_name("counts.cpp"))
    library.sort_ngrams.restype = library.merge_runs.restype = ctypes.c_int64
    return library
