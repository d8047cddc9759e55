"""Each document to one side, train or holdout, by the hash of its text; and ids made unique.

A document whose row brings a `split` of its own keeps it. Neither the order of the documents nor what else is
among them moves one, so a smaller holdout is a part of a larger one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge
from numpy.lib.format import open_memmap

from luban.data.dedup.buckets import Parts, buckets, joined, part_starts, release, save, working_folder
from luban.data.document import Document
from luban.data.step import Batch, Edit, Outcome
from luban.errors import ConfigError

SIDES = {"train": "train", "holdout": "holdout", "test": "holdout", "validation": "holdout", "dev": "holdout"}
"""Where a row's own `split` puts it."""
UNDECIDED, TRAIN, HOLDOUT = 0, 1, 2
EDITS = {TRAIN: Edit(meta={"split": "train"}), HOLDOUT: Edit(meta={"split": "holdout"})}
FACTS = np.dtype([("text", "<u8"), ("id", "<u8"), ("own", "u1")])
DECISION = np.dtype([("side", "u1"), ("times", "<u4")])
"""`times`: how many documents before this one had its id."""
ROWS = 1 << 18
"""Documents that are looked at together."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Marks documents `split: train` or `holdout`."""

    holdout: Annotated[float, Ge(0)] = 0.02
    """What to keep for evaluation: a share of the documents (below 1), or their number."""
    seed: int = 0
    """Another seed holds out other documents."""

    def __post_init__(self) -> None:
        if self.holdout >= 1 and self.holdout != int(self.holdout):
            hint = "--holdout 0.02 (a share) or --holdout 500 (a number)"
            raise ConfigError(f"setting 'holdout' is {self.holdout}: neither share nor number", hint=hint)

    def collect(self, batch: Batch) -> Mapping[str, np.ndarray]:
        """Hashes of text and id, and the side a row brings."""
        key, buffer = str(self.seed).encode(), batch.packed.buffer.data
        ends = (batch.packed.starts + batch.packed.lengths).tolist()
        texts = (buffer[start:end] for start, end in zip(batch.packed.starts.tolist(), ends, strict=True))
        facts = np.empty(len(batch.documents), FACTS)
        facts["text"] = [_hash(text, key) for text in texts]
        facts["id"] = [_hash(document.id.encode("utf-8")) for document in batch.documents]
        facts["own"] = [_own_side(document) for document in batch.documents]
        return {"facts": facts}

    def resolve(self, parts: Parts, decisions: Sequence[Path], *, memory: int) -> None:
        """Decide all sides and number the documents of one id, in a file, some rows at a time."""
        with working_folder(decisions) as folder:
            facts = joined(parts, "facts", folder)
            made = open_memmap(folder / "made.npy", mode="w+", dtype=DECISION, shape=facts.shape)
            for rows in _slices(len(facts)):
                made["side"][rows] = self._sides(np.asarray(facts[rows]))
                release(facts)
            if self.holdout >= 1:
                made["side"][self._smallest(facts)] = HOLDOUT
            for rows, times in occurrences(facts["id"], memory=memory):
                made["times"][rows] = times
            starts = part_starts(parts, "facts")
            for path, start, stop in zip(decisions, starts[:-1], starts[1:], strict=True):
                save(path, made[start:stop])
                release(made)

    def apply(self, batch: Batch, decisions: np.ndarray) -> Sequence[Outcome]:
        """The side into `split`; a repeated id gets its number and 8 digits of its text's hash."""
        rows = decisions[batch.first : batch.first + len(batch.documents)]
        decided = zip(batch.documents, rows["side"].tolist(), rows["times"].tolist(), strict=True)
        return [_edit(document, side, times) for document, side, times in decided]

    def _sides(self, facts: np.ndarray) -> np.ndarray:
        """The side each row brings, else that of its text's hash where a share is held out."""
        share = self.holdout if self.holdout < 1 else 0
        drawn = np.where(facts["text"] < np.uint64(int(share * 2**64)), HOLDOUT, TRAIN)
        return np.where(facts["own"] != UNDECIDED, facts["own"], drawn)

    def _smallest(self, facts: np.ndarray) -> np.ndarray:
        """The rows of the smallest hashes, `holdout` of those that bring no side; the first of equals."""
        hashes, numbers = np.empty(0, np.uint64), np.empty(0, np.int64)
        for rows in _slices(len(facts)):
            some = np.asarray(facts[rows])
            undecided = np.flatnonzero(some["own"] == UNDECIDED)
            hashes = np.concatenate([hashes, some["text"][undecided]])
            numbers = np.concatenate([numbers, undecided + rows.start])
            best = np.argsort(hashes, kind="stable")[: int(self.holdout)]
            hashes, numbers = hashes[best], numbers[best]
            release(facts)
        return numbers


def occurrences(keys: np.ndarray, *, memory: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of keys that come more than once, each with how often its key came before."""
    for found in buckets(keys, memory=memory, transform=_never_zero):
        sizes = np.diff(found.starts)
        yield found.rows, np.arange(len(found.rows)) - np.repeat(found.starts[:-1], sizes)


def _never_zero(keys: np.ndarray) -> np.ndarray:
    """0 means no key to `buckets`; one of 2^64 hashes may share another's."""
    return np.maximum(keys, np.uint64(1))


def _slices(count: int) -> Iterator[slice]:
    """Rows 0 to `count`, ROWS at a time."""
    return (slice(start, min(start + ROWS, count)) for start in range(0, count, ROWS))


def _edit(document: Document, side: int, times: int) -> Edit:
    if not times:
        return EDITS[side]
    own = f"{document.id}#{times + 1}.{_hash(document.text.encode('utf-8')):016x}"[:-8]
    return Edit(meta=EDITS[side].meta, id=own, changes={"renamed": 1})


def _own_side(document: Document) -> int:
    side = SIDES.get(str(document.meta.get("split")))
    return UNDECIDED if side is None else (HOLDOUT if side == "holdout" else TRAIN)


def _hash(text: bytes | memoryview, key: bytes = b"") -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=8, key=key).digest())
