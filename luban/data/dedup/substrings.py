"""Passages of at least N words that stand in the corpus more than once: found exactly, in bounded memory, and cut.

A window of N words is repeated if an equal one stands earlier; the words of all repeated windows go. That is
what a suffix array over the words of the corpus finds, without one:

    collect   word hashes and anchors of each text                      (parallel)
    resolve   anchors seen twice, in a bit table -> fingerprints of their windows, spilled to buckets
              -> repeated ones, by one hash table per bucket -> stretches of words
    apply     cut the stretches                                          (parallel)
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from ctypes import c_int, c_int64, c_uint64
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, Le

from luban import native
from luban.data.dedup.buckets import save
from luban.data.dedup.windows import cut_words, find_anchors
from luban.data.step import Batch, Drop, Edit, Outcome

RECORD_BYTES = 24
"""A window's fingerprint (122 bits) and place."""
SLOT_BYTES = 16
"""Of the hash table, per record at most: 4 bytes, at most half of them filled, rounded up to a power of two."""
SLOTS_PER_ANCHOR = 16
"""Of the bit table: at most one in 16 anchors that stand once is taken for one that stands twice."""
ANCHOR_BYTES = 2048
"""What one anchor's windows take while they are spilled, with room to spare: about 14 records, twice."""
Part = Mapping[str, Path]


@dataclass(frozen=True, kw_only=True)
class Substrings:
    """Cut passages that stand in the corpus more than once.

    Source: Lee et al. 2022 (arXiv:2107.06499), ExactSubstr; RefinedWeb (arXiv:2306.01116), sec. 3.3 and G.3. They
    compare BPE tokens, here words as written are compared, whatever white space is between them. Two windows
    that differ are taken for equal with a chance below 2^-60.
    """

    words: Annotated[int, Ge(2)] = 50
    """The shortest passage that counts."""
    keep: Literal["first", "none"] = "first"
    """The first occurrence stays, or all go."""
    max_share: Annotated[float, Gt(0), Le(1)] = 1.0
    """Drop a document of which more than this share of characters is repeated; RefinedWeb tried 0.2."""
    min_chars: Annotated[int, Ge(0)] = 20
    """Drop a document of which less is left after a cut."""

    def collect(self, batch: Batch) -> Mapping[str, np.ndarray]:
        """Word hashes, anchors, and how many of both each document has."""
        found = find_anchors(batch.packed, self.words)
        return {
            "words": found.words,
            "hashes": found.hashes,
            "firsts": found.firsts,
            "sizes": found.sizes,
        }

    def resolve(self, parts: Sequence[Part], decisions: Sequence[Path], *, memory: int) -> None:
        """Per part an int64 array [n, 3] of stretches to cut: document of the part, first word, end word."""
        offsets = np.cumsum([0, *(len(_open(part, "words")) for part in parts)])
        shared = _Shared.of(parts, memory // 4)
        with tempfile.TemporaryDirectory(dir=decisions[0].parent, prefix=".substrings.") as name:
            marks = np.memmap(Path(name) / "marks", np.uint8, "w+", shape=(int(offsets[-1]) // 8 + 1,))
            for records in self._buckets(parts, offsets, shared, Path(name), memory):
                _mark(records, marks, keep_first=self.keep == "first")
            for part, offset, path in zip(parts, offsets[:-1], decisions, strict=True):
                save(path, _stretches(marks, int(offset), _open(part, "sizes")[:, 0], self.words))
            del marks

    def apply(self, batch: Batch, decisions: np.ndarray) -> Sequence[Outcome]:
        """Cut each document's stretches; `repeated_passages` and `repeated_chars` count them."""
        count = len(batch.documents)
        begin, end = np.searchsorted(decisions[:, 0], (batch.first, batch.first + count))
        outcomes: list[Outcome] = [None] * count
        touched, cuts = np.unique(decisions[begin:end, 0] - batch.first, return_inverse=True)
        stretches = np.column_stack([cuts.reshape(-1), decisions[begin:end, 1:]]).astype(np.int64)
        texts = cut_words(batch.packed.take(touched), stretches)
        passages = np.bincount(stretches[:, 0], minlength=len(touched))
        for index, text, number in zip(touched, texts, passages, strict=True):
            outcomes[index] = self._outcome(batch.documents[index].text, text, int(number))
        return outcomes

    def _outcome(self, before: str, after: str, passages: int) -> Outcome:
        gone = len(before) - len(after)
        if gone > self.max_share * len(before):
            return Drop("mostly_repeated", gone / len(before))
        if len(after.strip()) < self.min_chars:
            return Drop("short_without_repeats", len(after.strip()))
        return Edit(after, changes={"repeated_passages": passages, "repeated_chars": gone})

    def _buckets(
        self, parts: Sequence[Part], offsets: np.ndarray, shared: _Shared, folder: Path, memory: int
    ) -> Iterator[np.ndarray]:
        """The records of all windows that may be repeated, in order of place, those of equal windows together."""
        total = sum(int(windows) for part in parts for _, _, windows in shared.stretches(part, self.words))
        number = min(1 << 16, total * (RECORD_BYTES + SLOT_BYTES) // max(1, memory // 2) + 1)
        files = [folder / f"bucket{index}" for index in range(number)]
        for part, offset in zip(parts, offsets[:-1], strict=True):
            words = _open(part, "words")
            for starts, ends, windows in shared.stretches(part, self.words):
                _spill(_fingerprints(words, starts, ends, windows, self.words, int(offset)), files)
        for file in files:
            if file.is_file():
                yield np.memmap(file, np.uint64, "r").reshape(-1, 3)
                file.unlink()


@dataclass(frozen=True)
class _Shared:
    """Which anchors stand in the corpus more than once, by two bits per slot; a few more may seem to."""

    table: np.ndarray
    bits: int
    step: int
    """How many anchors' windows are handled at once."""

    @classmethod
    def of(cls, parts: Sequence[Part], memory: int) -> _Shared:
        anchors = sum(len(_open(part, "hashes")) for part in parts)
        wanted = min(SLOTS_PER_ANCHOR * anchors, 4 * memory)
        bits = max(5, int(wanted).bit_length() - 1)
        step = min(1 << 16, max(1 << 8, memory // ANCHOR_BYTES))
        shared = cls(np.zeros(1 << (bits - 5), np.uint64), bits, step)
        for part in parts:
            hashes = _open(part, "hashes")
            _library().count_anchors(
                native.pointer(hashes, np.uint64),
                c_int64(len(hashes)),
                native.pointer(shared.table, np.uint64),
                c_int(64 - bits),
            )
        return shared

    def stretches(self, part: Part, window: int) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        """The windows behind shared anchors as places in the part's words: starts, ends, their number."""
        hashes, sizes = _open(part, "hashes"), np.asarray(_open(part, "sizes"))
        documents = np.repeat(np.arange(len(sizes)), sizes[:, 1])
        begins = np.cumsum(sizes[:, 0]) - sizes[:, 0]
        firsts = begins[documents] + _open(part, "firsts")
        ends = np.roll(firsts, -1)
        lasts = np.cumsum(sizes[:, 1])[sizes[:, 1] > 0] - 1
        ends[lasts] = (begins + sizes[:, 0] - window + 1)[sizes[:, 1] > 0]
        flags = np.empty(len(hashes), np.bool_)
        _library().is_shared(
            native.pointer(hashes, np.uint64),
            c_int64(len(hashes)),
            native.pointer(self.table, np.uint64),
            c_int(64 - self.bits),
            native.pointer(flags, np.bool_),
        )
        for at in range(0, len(flags), self.step):
            chunk = slice(at, at + self.step)
            starts, stops = firsts[chunk][flags[chunk]], ends[chunk][flags[chunk]]
            yield starts, stops, int((stops - starts).sum())


def _fingerprints(
    words: np.ndarray, starts: np.ndarray, ends: np.ndarray, windows: int, window: int, offset: int
) -> np.ndarray:
    records = np.empty((windows, 3), np.uint64)
    _library().fingerprints(
        native.pointer(words, np.uint64),
        native.pointer(starts, np.int64),
        native.pointer(ends, np.int64),
        c_int64(len(starts)),
        c_int64(window),
        c_uint64(offset),
        native.pointer(records, np.uint64),
    )
    return records


def _spill(records: np.ndarray, files: Sequence[Path]) -> None:
    """Append each record to the file of its fingerprint, in order."""
    buckets = (records[:, 0] >> np.uint64(29)) * np.uint64(len(files)) >> np.uint64(32)
    order = np.argsort(buckets.astype(np.uint16), kind="stable") if len(files) > 1 else slice(None)
    ordered, bounds = records[order], np.searchsorted(buckets[order], np.arange(len(files) + 1))
    for file, begin, end in zip(files, bounds[:-1], bounds[1:], strict=True):
        if begin < end:
            with file.open("ab") as opened:
                ordered[begin:end].tofile(opened)


def _mark(records: np.ndarray, marks: np.ndarray, *, keep_first: bool) -> None:
    slots = np.zeros(1 << (2 * len(records)).bit_length(), np.uint32)
    _library().mark_repeats(
        native.pointer(records, np.uint64),
        c_int64(len(records)),
        native.pointer(slots, np.uint32),
        c_uint64(len(slots) - 1),
        c_int(keep_first),
        native.pointer(marks, np.uint8),
    )


def _stretches(marks: np.ndarray, offset: int, sizes: np.ndarray, window: int) -> np.ndarray:
    out = np.empty((int(sizes.sum()) // window + 1, 3), np.int64)
    library, sizes = _library(), np.ascontiguousarray(sizes)
    library.joined.restype = c_int64
    count = library.joined(
        native.pointer(marks, np.uint8),
        c_uint64(offset),
        native.pointer(sizes, np.int64),
        c_int64(len(sizes)),
        c_int64(window),
        native.pointer(out, np.int64),
    )
    return out[:count]


def _open(part: Part, name: str) -> np.ndarray:
    return np.load(part[name], mmap_mode="r")


def _library():
    return native.load(Path(__file__).with_name("substrings.cpp"))
