"""Evaluation examples cut out of the corpus, so that a score means what it says.

evaluation files -> rows -> n-grams in a hash set          (small, in memory)
corpus -> n-grams met, where and in how many documents     (streams by)
all but the common ones -> cut with their surroundings
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from ctypes import c_int64, c_uint64
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le

from luban import native
from luban.data.evaluation_rows import EvaluationRow, evaluation_files, read_rows
from luban.data.step import Batch, Drop, Edit, Outcome, Packed
from luban.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Decontaminate:
    """Cut what evaluation files hold, with its surroundings.

    Source: Brown et al. 2020 (arXiv:2005.14165), app. C. As there, n-grams are words in lower case without signs,
    and those that many documents hold are no evidence. What is left in pieces stays one document here, its pieces
    parted by blank lines; n is set per file, as theirs was for the analysis, so that short examples count.
    """

    against: tuple[Path, ...]
    """Evaluation files or folders: .jsonl .json .txt .md, each also .gz or .zst; every string of a row counts."""
    max_n: Annotated[int, Ge(2), Le(63)] = 13
    """Words in a row that are evidence. Files with shorter examples take their 5th percentile of words instead."""
    min_n: Annotated[int, Ge(2), Le(63)] = 8
    """But not fewer than this. A text between the two is looked for as a whole."""
    margin_chars: Annotated[int, Ge(0)] = 200
    """Characters that go on both sides of what was found."""
    min_chars: Annotated[int, Ge(0)] = 200
    """Pieces shorter than this go."""
    max_pieces: Annotated[int, Ge(1)] = 10
    """Drop a document that falls into more pieces, short ones counted."""
    common: Annotated[int, Ge(1)] = 10
    """An n-gram that more documents hold is a common phrase and stays."""

    def __post_init__(self) -> None:
        if self.min_n > self.max_n:
            raise ConfigError(f"min_n is {self.min_n}, more than max_n, which is {self.max_n}")
        if not self.against:
            raise ConfigError("decontaminate has no evaluation files", hint="against: [eval.jsonl]")
        evaluation_files(self.against)

    def collect(self, batch: Batch) -> Mapping[str, np.ndarray]:
        """The n-grams met, int64 [n, 4]: document of the part, n-gram, begin and end in bytes."""
        found = evaluation_grams(self.against, self.min_n, self.max_n).find(batch.packed)
        found[:, 0] += batch.first
        return {"found": found[:, [0, 1, 3, 4]]}

    def resolve(
        self,
        parts: Sequence[Mapping[str, Path]],
        decisions: Sequence[Path],
        *,
        memory: int,  # noqa: ARG002 - what is kept is one number per n-gram of the evaluation files
    ) -> None:
        """Per part what to cut, int64 [n, 3]: document, begin and end in bytes."""
        holders = np.zeros(0, np.int64)
        for part in parts:
            found = np.unique(np.load(part["found"], mmap_mode="r")[:, :2], axis=0)
            counts = np.bincount(found[:, 1], minlength=len(holders))
            counts[: len(holders)] += holders
            holders = counts
        for part, path in zip(parts, decisions, strict=True):
            found = np.load(part["found"], mmap_mode="r")
            np.save(path, found[holders[found[:, 1]] <= self.common][:, [0, 2, 3]])

    def apply(self, batch: Batch, decisions: np.ndarray) -> Sequence[Outcome]:
        """`contaminated_passages` and `contaminated_chars` count what went."""
        count = len(batch.documents)
        begin, end = np.searchsorted(decisions[:, 0], (batch.first, batch.first + count))
        outcomes: list[Outcome] = [None] * count
        here = decisions[begin:end]
        for document in np.unique(here[:, 0]):
            index = int(document) - batch.first
            outcomes[index] = self._cut(batch.documents[index].text, here[here[:, 0] == document, 1:])
        return outcomes

    def _cut(self, text: str, found: np.ndarray) -> Outcome:
        passages = _widened(text, _as_characters(text, _merged(found)), self.margin_chars)
        bounds = [0, *(int(bound) for passage in passages for bound in passage), len(text)]
        pieces = [text[a:b].strip() for a, b in zip(bounds[::2], bounds[1::2], strict=True)]
        pieces = [piece for piece in pieces if piece]
        if len(pieces) > self.max_pieces:
            return Drop("contaminated", len(pieces))
        kept = [piece for piece in pieces if len(piece) >= self.min_chars]
        if not kept:
            return Drop("contaminated_short", max(map(len, pieces), default=0))
        cut = "\n\n".join(kept)
        gone = {"contaminated_passages": len(passages), "contaminated_chars": len(text) - len(cut)}
        return Edit(cut, changes=gone)


@dataclass(frozen=True)
class GramSet:
    """N-grams of one or more lengths, by 64-bit keys: two that differ share one with a chance of 2^-64."""

    ns: np.ndarray  # int64
    keys: np.ndarray  # uint64, sorted
    slots: np.ndarray  # uint32 [2^k]
    filter: np.ndarray  # uint64 [2^k]

    @classmethod
    def of(cls, texts: Iterable[tuple[Packed, np.ndarray]]) -> GramSet:
        """The n-grams of texts, each with the n per text; 0 leaves a text out."""
        ns, keys = {0}, [np.zeros(0, np.uint64)]
        for packed, lengths in texts:
            ns |= set(lengths.tolist())
            keys.append(_gram_keys(packed, lengths))
        unique = np.unique(np.concatenate(keys))
        power = (2 * len(unique)).bit_length()
        slots, bits = np.zeros(1 << power, np.uint32), np.zeros(1 << max(0, power - 3), np.uint64)
        _library().index_keys(
            native.pointer(unique, np.uint64),
            c_int64(len(unique)),
            native.pointer(slots, np.uint32),
            c_uint64(len(slots) - 1),
            native.pointer(bits, np.uint64),
            c_uint64(len(bits) - 1),
        )
        return cls(np.array(sorted(ns - {0}), np.int64), unique, slots, bits)

    def find(self, packed: Packed) -> np.ndarray:
        """Where they stand in texts, int64 [n, 5]: text, index in `keys`, first word, begin and end in bytes."""
        out = np.empty(
            (int(packed.lengths.sum()) * len(self.ns), 5), np.int64
        )  # unwritten pages cost no memory
        library = _library()
        library.find_grams.restype = c_int64
        count = library.find_grams(
            *_texts(packed),
            native.pointer(self.ns, np.int64),
            c_int64(len(self.ns)),
            native.pointer(self.keys, np.uint64),
            native.pointer(self.slots, np.uint32),
            c_uint64(len(self.slots) - 1),
            native.pointer(self.filter, np.uint64),
            c_uint64(len(self.filter) - 1),
            native.pointer(out, np.int64),
        )
        return out[:count].copy()


@functools.cache
def evaluation_grams(against: tuple[Path, ...], min_n: int, max_n: int) -> GramSet:
    """The n-grams of evaluation files, n set per file; raises DataError for a malformed row."""
    return GramSet.of(
        (packed, n_per_text(rows, words, min_n, max_n))
        for rows in (list(read_rows(file)) for file in evaluation_files(against))
        for packed, words in [pack(rows)]
    )


def pack(rows: Sequence[EvaluationRow]) -> tuple[Packed, np.ndarray]:
    """All rows' texts end to end, and how many words each text has."""
    packed = Packed.of([text for row in rows for text in row.texts])
    counts = np.zeros(len(packed.starts), np.int64)
    _library().count_words(*_texts(packed), native.pointer(counts, np.int64))
    return packed, counts


def n_per_text(rows: Sequence[EvaluationRow], words: np.ndarray, min_n: int, max_n: int) -> np.ndarray:
    """How many words in a row of each text are evidence; 0 for a text too short to give any.

    n of a file is the 5th percentile of its rows' lengths (their longest text's words) within the bounds.
    """
    if not rows:
        return np.zeros(0, np.int64)
    first = np.cumsum([0, *(len(row.texts) for row in rows)])[:-1]
    longest = np.maximum.reduceat(words, first)
    n = int(np.clip(np.percentile(longest, 5, method="lower"), min_n, max_n))
    shorter = np.where(words >= min_n, words, 0)
    return np.where(words >= n, n, shorter)


def _gram_keys(packed: Packed, ns: np.ndarray) -> np.ndarray:
    out = np.empty(int(packed.lengths.sum()), np.uint64)
    library = _library()
    library.gram_keys.restype = c_int64
    count = library.gram_keys(*_texts(packed), native.pointer(ns, np.int64), native.pointer(out, np.uint64))
    return out[:count].copy()


def _merged(spans: np.ndarray) -> np.ndarray:
    """Spans (begin, end), sorted and joined where they meet."""
    spans = spans[np.argsort(spans[:, 0], kind="stable")]
    ends = np.maximum.accumulate(spans[:, 1])
    new = np.append(True, spans[1:, 0] > ends[:-1])
    return np.column_stack([spans[new, 0], ends[np.append(np.flatnonzero(new)[1:] - 1, len(ends) - 1)]])


def _as_characters(text: str, spans: np.ndarray) -> np.ndarray:
    """Places in bytes as places in characters; `spans` are sorted and apart."""
    if text.isascii():
        return spans
    raw, at, out, before = text.encode("utf-8"), 0, [], 0
    for place in spans.reshape(-1).tolist():
        at += len(raw[before:place].decode("utf-8"))
        out.append(at)
        before = place
    return np.array(out, np.int64).reshape(-1, 2)


def _widened(text: str, spans: np.ndarray, margin: int) -> np.ndarray:
    """`margin` characters more on both sides, and on to the next end of a word."""
    out = spans.copy()
    for row, (begin, end) in zip(out, spans.tolist(), strict=True):
        begin, end = max(0, begin - margin), min(len(text), end + margin)
        while 0 < begin < len(text) and text[begin - 1].isalnum() and text[begin].isalnum():
            begin -= 1
        while 0 < end < len(text) and text[end - 1].isalnum() and text[end].isalnum():
            end += 1
        row[:] = begin, end
    return _merged(out)


def _texts(packed: Packed) -> tuple:
    return (*packed.arguments,)


def _library():
    return native.load(Path(__file__).with_name("decontaminate.cpp"))
