"""Rows that share a key, found in bounded memory: what every kind of duplicate is made of.

Keys live in one mapped column for the whole corpus, in order of parts, so neither the cut into parts nor the
memory allowed changes what is found.
"""

from __future__ import annotations

import contextlib
import mmap
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from luban.folder import atomic_file

Parts = Sequence[Mapping[str, Path]]
ROW_BYTES = 64
"""What gathering and sorting takes at most for each row of a range, copies included."""
CHUNK_BYTES = 1 << 24
LEAST_BYTES = 1 << 22
"""Less memory than this is not worth the passes it would cost."""


@dataclass(frozen=True, slots=True)
class Buckets:
    """Rows by key: bucket i is `rows[starts[i] : starts[i + 1]]`, ascending, always two or more."""

    rows: np.ndarray  # int64 [rows]
    starts: np.ndarray  # int64 [buckets + 1]

    def split(self, costs: np.ndarray, most: int) -> Iterator[Buckets]:
        """The same buckets in runs whose rows together cost up to `most`; a bucket that costs more is a run alone."""
        before = np.concatenate(([0], np.cumsum(costs)))[self.starts]
        begin, count = 0, len(self.starts) - 1
        while begin < count:
            end = max(begin + 1, int(np.searchsorted(before, before[begin] + most, side="right")) - 1)
            first, last = self.starts[begin], self.starts[end]
            yield Buckets(self.rows[first:last], self.starts[begin : end + 1] - first)
            begin = end


def buckets(
    keys: np.ndarray, *, memory: int, transform: Callable[[np.ndarray], np.ndarray] | None = None
) -> Iterator[Buckets]:
    """All rows whose (transformed) key at least one other row has, some range of keys at a time.

    `keys` (uint64, evenly spread) is read once per `memory` / 64 rows. Key 0 means none: no bucket. One key that
    more rows hold than fit `memory` takes what it takes.
    """
    ranges = -(-len(keys) * ROW_BYTES // max(memory, LEAST_BYTES))
    for number in range(ranges):
        low, high = max(1, number * 2**64 // ranges), (number + 1) * 2**64 // ranges - 1
        found = _same(*_in_range(keys, low, high, transform))
        if len(found.rows):
            yield found


@contextlib.contextmanager
def working_folder(decisions: Sequence[Path]) -> Iterator[Path]:
    """A folder for working files beside the decisions; it vanishes at the end, what a killed run left at the start."""
    folder = decisions[0].parent / ".resolve"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def save(path: Path, rows: np.ndarray) -> None:
    """Write an array as `.npy`, whole or not at all but for a power cut, which `is_saved` sees."""
    with atomic_file(path, durable=False) as work, work.open("wb") as file:
        np.save(file, rows)


def is_saved(path: Path) -> bool:
    """Whether there is an array in the file, all of it."""
    try:
        opened(path)
    except (OSError, EOFError, ValueError):  # missing; empty; shorter than its head says
        return False
    return True


def joined(parts: Parts, name: str, folder: Path) -> np.ndarray:
    """All parts' rows of an array as one mapped array; a two-dimensional one transposed, [columns, rows]."""
    arrays = [opened(part[name]) for part in parts]
    total = sum(map(len, arrays))
    shape = (total,) if arrays[0].ndim == 1 else (arrays[0].shape[1], total)
    whole = np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=arrays[0].dtype, shape=shape)
    at = 0
    for array in arrays:
        step = max(1, CHUNK_BYTES // (array.itemsize * max(1, *array.shape[1:], 1)))
        for start in range(0, len(array), step):
            rows = array[start : start + step]
            whole[..., at : at + len(rows)] = rows.T
            at += len(rows)
        release(whole)
    return whole


def release(mapped: np.ndarray) -> None:
    """Let go of the memory that the file behind an array or a view fills; touched again, it is read again."""
    owner = mapped
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, mmap.mmap):
        owner.madvise(mmap.MADV_DONTNEED)


def opened(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r")


def part_starts(parts: Parts, name: str) -> np.ndarray:
    """Where each part's rows of an array begin among all, and at last their number; int64 [parts + 1]."""
    return np.concatenate(([0], np.cumsum([len(opened(part[name])) for part in parts]))).astype(np.int64)


def _in_range(
    keys: np.ndarray, low: int, high: int, transform: Callable[[np.ndarray], np.ndarray] | None
) -> tuple[np.ndarray, np.ndarray]:
    """The rows whose key is within low..high, and those keys."""
    found: list[tuple[np.ndarray, np.ndarray]] = []
    step = CHUNK_BYTES // 64
    for start in range(0, len(keys), step):
        chunk = np.asarray(keys[start : start + step])
        chunk = chunk if transform is None else transform(chunk)
        inside = np.flatnonzero((chunk >= np.uint64(low)) & (chunk <= np.uint64(high)))
        found.append((inside + start, chunk[inside]))
        release(keys)
    return np.concatenate([rows for rows, _ in found]), np.concatenate([chunk for _, chunk in found])


def _same(rows: np.ndarray, keys: np.ndarray) -> Buckets:
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    as_before = np.zeros(len(keys) + 1, bool)
    as_before[1:-1] = keys[1:] == keys[:-1]
    shared = np.flatnonzero(as_before[:-1] | as_before[1:])
    starts = np.flatnonzero(~as_before[shared])
    return Buckets(rows[order[shared]], np.append(starts, len(shared)).astype(np.int64))
