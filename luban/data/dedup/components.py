"""Groups of duplicates: pairs join into components, and each component keeps its best document.

Components chain: where A is like B and B like C, one of the three stays, even if A is not like C. That is what
SlimPajama and FineWeb do too; verification vouches for each link, not for both ends of a chain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ctypes import CDLL, c_double, c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from luban import native
from luban.data.dedup.buckets import Buckets, Parts, joined, opened, part_starts, release, save
from luban.data.step import Batch, Drop, Outcome
from luban.errors import DataError
from luban.native import pointer

WINDOW = 16
"""A document is compared with its bucket's first one and so many before it: all pairs of most buckets.

In larger ones only chains of duplicates further apart than this, with nothing alike between, can be missed, and
only if no other band brings them together; the cost per document stays bounded.
"""


AROUND = 1 << 16
"""Bytes that the system may map around what is touched."""
_SOURCE = Path(__file__).with_name("components.cpp")


@dataclass(frozen=True, slots=True)
class Sets:
    """Where each document's shingles are: the parts' files stay mapped, only addresses are made."""

    addresses: np.ndarray  # uint64 [documents]
    counts: np.ndarray  # int64 [documents]
    maps: Sequence[np.ndarray]

    @classmethod
    def of(cls, parts: Parts, folder: Path) -> Sets:
        """From the parts' `shingles` and `counts`."""
        counts = joined(parts, "counts", folder)
        maps = [opened(part["shingles"]) for part in parts]
        addresses = np.lib.format.open_memmap(
            folder / "addresses.npy", mode="w+", dtype=np.uint64, shape=counts.shape
        )
        starts = part_starts(parts, "counts")
        for shingles, start, stop in zip(maps, starts[:-1], starts[1:], strict=True):
            own = counts[start:stop]
            addresses[start:stop] = shingles.ctypes.data + shingles.itemsize * (np.cumsum(own) - own)
        return cls(addresses, counts, maps)

    def pieces(self, found: Buckets, most: int) -> Iterator[Buckets]:
        """The buckets again, so many at a time that their sets fill up to `most` bytes; then these are let go."""
        costs = self.counts[found.rows] * np.dtype(np.uint32).itemsize + AROUND
        for piece in found.split(costs, most):
            yield piece
            for mapped in (self.addresses, self.counts, *self.maps):
                release(mapped)


class Forest:
    """Documents 0 to `count` - 1 in disjoint sets, each named by its first member; 4 bytes a document."""

    def __init__(self, count: int) -> None:
        if count >= 2**32:
            raise DataError(f"{count:,} documents in one corpus; at most 4,294,967,295 can be compared")
        self.parent = np.arange(count, dtype=np.uint32)
        self._library = _library()

    def unite_all(self, found: Buckets) -> None:
        """Join what shares a bucket."""
        self._library.unite_all(pointer(self.parent, np.uint32), *_arguments(found))

    def unite_similar(self, found: Buckets, sets: Sets, threshold: float) -> int:
        """Join what shares a bucket and has a Jaccard similarity of `threshold`; returns the comparisons made.

        Exact for documents of up to 262,144 words; of longer ones a part of the hashes' range is compared.
        """
        self._library.unite_similar.restype = c_int64
        return self._library.unite_similar(
            pointer(self.parent, np.uint32),
            *_arguments(found),
            pointer(sets.addresses, np.uint64),
            pointer(sets.counts, np.int64),
            c_double(threshold),
            c_int64(WINDOW),
        )

    def unite_close(self, found: Buckets, fingerprints: np.ndarray, distance: int) -> None:
        """Join what shares a bucket and differs in at most `distance` bits of 64."""
        self._library.unite_close(
            pointer(self.parent, np.uint32),
            *_arguments(found),
            pointer(fingerprints, np.uint64),
            c_int64(distance),
        )

    def keepers(self, ranks: np.ndarray) -> np.ndarray:
        """For each document the one of its set that stays: of the highest rank, the first of equals; uint32."""
        best = np.empty_like(self.parent)
        self._library.keepers(
            pointer(self.parent, np.uint32),
            pointer(ranks, np.float64),
            c_int64(len(best)),
            pointer(best, np.uint32),
        )
        return best


def match_marked(
    match: np.ndarray, marked: np.ndarray, found: Buckets, sets: Sets | None, threshold: float
) -> None:
    """Fill `match` (int64, -1 where none) for rows that are not `marked` with one in their bucket that is.

    With `sets` only where the Jaccard similarity reaches `threshold`.
    """
    _library().match_marked(
        pointer(match, np.int64),
        pointer(marked, np.uint8),
        *_arguments(found),
        pointer(sets.addresses, np.uint64) if sets else None,
        pointer(sets.counts, np.int64) if sets else None,
        c_double(threshold if sets else 0),
        c_int64(WINDOW),
    )


def write_decisions(decisions: Sequence[Path], starts: np.ndarray, others: np.ndarray) -> None:
    """One file per part: for each document the (part, index) of the one that stays instead; int64 [documents, 2].

    `others[i]` is that one's number among all documents; where it is i itself or -1, i stays: (-1, -1).
    """
    for path, start, stop in zip(decisions, starts[:-1], starts[1:], strict=True):
        other = others[start:stop].astype(np.int64)
        part = np.searchsorted(starts, other, side="right") - 1
        rows = np.stack([part, other - starts[part]], axis=1)
        rows[(other < 0) | (other == np.arange(start, stop))] = -1
        save(path, rows)


def drop_copies(batch: Batch, decisions: np.ndarray, reason: str) -> list[Outcome]:
    """Drop what has another to stay for it; the value says which: `part/index`, both from 0."""
    own = decisions[batch.first : batch.first + len(batch.documents)].tolist()
    return [None if part < 0 else Drop(reason, f"{part}/{index}") for part, index in own]


def _arguments(found: Buckets) -> tuple[c_void_p, c_void_p, c_int64]:
    return pointer(found.rows, np.int64), pointer(found.starts, np.int64), c_int64(len(found.starts) - 1)


def _library() -> CDLL:
    return native.load(_SOURCE)
