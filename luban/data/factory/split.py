"""Each document to one side, train or holdout, by the hash of its text; and ids made unique.

A document whose row brings a `split` of its own keeps it. Neither the order of the documents nor what else is
among them moves one, so a smaller holdout is a part of a larger one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge

from luban.data.dedup.buckets import save
from luban.data.document import Document
from luban.data.step import Batch, Edit, Outcome
from luban.errors import ConfigError

SIDES = {"train": "train", "holdout": "holdout", "test": "holdout", "validation": "holdout", "dev": "holdout"}
"""Where a row's own `split` puts it."""
UNDECIDED, TRAIN, HOLDOUT = 0, 1, 2
FACTS = np.dtype([("text", "<u8"), ("id", "<u8"), ("own", "u1")])
DECISION = np.dtype([("side", "u1"), ("times", "<u4")])
"""`times`: how many documents before this one had its id."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Marks documents `split: train` or `holdout`; needs 17 bytes of memory per document."""

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
        key = str(self.seed).encode()
        facts = [(_hash(d.text, key), _hash(d.id), _own_side(d)) for d in batch.documents]
        return {"facts": np.array(facts, FACTS)}

    def resolve(self, parts: Sequence[Mapping[str, Path]], decisions: Sequence[Path], *, memory: int) -> None:  # noqa: ARG002 - 17 bytes per document are the least that unique ids take
        """Decide all sides at once, and number the documents of one id."""
        facts = [np.load(part["facts"]) for part in parts]
        joined = np.concatenate(facts) if facts else np.empty(0, FACTS)
        made = np.empty(len(joined), DECISION)
        made["side"] = np.where(joined["own"] != UNDECIDED, joined["own"], self._sides(joined))
        made["times"] = occurrences(joined["id"])
        start = 0
        for part, path in zip(facts, decisions, strict=True):
            save(path, made[start : start + len(part)])
            start += len(part)

    def apply(self, batch: Batch, decisions: np.ndarray) -> Sequence[Outcome]:
        """The side into `split`; a repeated id gets its number and 8 digits of its text's hash."""
        rows = decisions[batch.first : batch.first + len(batch.documents)]
        return [_edit(document, row) for document, row in zip(batch.documents, rows, strict=True)]

    def _sides(self, facts: np.ndarray) -> np.ndarray:
        hashes = facts["text"]
        if self.holdout < 1:
            return np.where(hashes < np.uint64(int(self.holdout * 2**64)), HOLDOUT, TRAIN)
        open_ones = np.flatnonzero(facts["own"] == UNDECIDED)
        smallest = open_ones[np.argsort(hashes[open_ones], kind="stable")[: int(self.holdout)]]
        sides = np.full(len(facts), TRAIN, np.uint8)
        sides[smallest] = HOLDOUT
        return sides


def occurrences(keys: np.ndarray) -> np.ndarray:
    """For each key, how often it came before."""
    order = np.argsort(keys, kind="stable")
    ranks = np.arange(len(keys))
    starts = np.r_[True, keys[order][1:] != keys[order][:-1]] if len(keys) else np.empty(0, bool)
    first = np.maximum.accumulate(np.where(starts, ranks, 0))
    times = np.empty(len(keys), np.int64)
    times[order] = ranks - first
    return times


def _edit(document: Document, row: np.void) -> Edit:
    meta = {"split": "holdout" if row["side"] == HOLDOUT else "train"}
    if not row["times"]:
        return Edit(meta=meta)
    own = f"{document.id}#{row['times'] + 1}.{_hash(document.text):016x}"[:-8]
    return Edit(meta=meta, id=own, changes={"renamed": 1})


def _own_side(document: Document) -> int:
    side = SIDES.get(str(document.meta.get("split")))
    return UNDECIDED if side is None else (HOLDOUT if side == "holdout" else TRAIN)


def _hash(text: str, key: bytes = b"") -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8, key=key).digest())
