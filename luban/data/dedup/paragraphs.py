"""Repeated paragraphs: a line that stood before, anywhere in the corpus, is taken out."""

from __future__ import annotations

import hashlib
import re
import string
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge

from luban.data.dedup.buckets import Parts, buckets, joined, opened, part_starts, save, working_folder
from luban.data.step import Batch, Drop, Edit, Outcome

SIGNS = re.compile(r"[^\w\s]+|_+")
"""What is neither letter, digit nor white space: punctuation, symbols, accents that stand apart."""
ASCII = bytes.maketrans(
    (string.ascii_uppercase + string.digits).encode(), (string.ascii_lowercase + "0" * 10).encode()
)
ASCII_SIGNS = string.punctuation.encode()


@dataclass(frozen=True, kw_only=True)
class Paragraphs:
    """Take out paragraphs (lines) that an earlier document, or the same one further up, has too.

    Two are the same if their SHA-1 agrees in the first 64 bits, after lower case, each digit to 0, punctuation,
    symbols and accents removed; a line of which nothing is left then is never a duplicate. A document that lost
    some and keeps too little goes: `duplicate_paragraphs`, with the characters left.

    Source: CCNet (Wenzek et al. 2020, arXiv:1911.00359), section 3.1; there, within shards of 5 GB.
    """

    min_chars: Annotated[int, Ge(0)] = 200
    """Drop a document that keeps fewer characters; one that lost nothing stays."""

    def collect(self, batch: Batch) -> Mapping[str, np.ndarray]:
        keys = [paragraph_keys(text) for text in batch.texts]
        return {
            "paragraphs": np.concatenate([np.zeros(0, np.uint64), *keys]),
            "counts": np.array([len(own) for own in keys], np.int64),
        }

    def resolve(self, parts: Parts, decisions: Sequence[Path], *, memory: int) -> None:
        """A part's decisions are the lines to take out: (document, line) in order; int64 [lines, 2]."""
        with working_folder(decisions) as folder:
            keys = joined(parts, "paragraphs", folder)
            again = np.lib.format.open_memmap(folder / "again.npy", mode="w+", dtype=bool, shape=keys.shape)
            for found in buckets(keys, memory=memory):
                again[np.delete(found.rows, found.starts[:-1])] = True
            starts = part_starts(parts, "paragraphs")
            for part, path, start, stop in zip(parts, decisions, starts[:-1], starts[1:], strict=True):
                ends = np.cumsum(opened(part["counts"]))
                lines = np.flatnonzero(again[start:stop])
                documents = np.searchsorted(ends, lines, side="right")
                first = np.concatenate(([0], ends))[documents]
                save(path, np.stack([documents, lines - first], axis=1))

    def apply(self, batch: Batch, decisions: np.ndarray) -> list[Outcome]:
        own = batch.first + np.arange(len(batch.documents) + 1)
        bounds = np.searchsorted(decisions[:, 0], own)
        return [
            self._judge(document.text, set(decisions[start:stop, 1].tolist()))
            for document, start, stop in zip(batch.documents, bounds[:-1], bounds[1:], strict=True)
        ]

    def _judge(self, text: str, repeated: set[int]) -> Outcome:
        if not repeated:
            return None
        left = without_lines(text, repeated)
        if len(left) < self.min_chars:
            return Drop("duplicate_paragraphs", len(left))
        return Edit(left, changes={"duplicate_paragraph": len(repeated)})


def paragraph_keys(text: str) -> np.ndarray:
    """64 bits for each line of a text, 0 for one without a letter or digit; uint64."""
    lines = (line.strip() for line in normalise(text).split(b"\n"))
    joint = b"".join(hashlib.sha1(line).digest()[:8] if line else bytes(8) for line in lines)
    return np.frombuffer(joint, "<u8").astype(np.uint64)


def normalise(text: str) -> bytes:
    """Lower case, each digit 0, no signs and accents; as many lines as before.

    >>> normalise("Déjà vu, 1984!").decode()
    'deja vu 0000'
    """
    if text.isascii():
        return text.encode().translate(ASCII, ASCII_SIGNS)
    bare = SIGNS.sub("", unicodedata.normalize("NFD", text.lower()))
    return re.sub(r"\d", "0", bare).encode("utf-8")


def without_lines(text: str, removed: set[int]) -> str:
    """The text without these lines, nor the empty ones after them that would double an empty one."""
    kept: list[str] = []
    gap = False
    for number, line in enumerate(text.split("\n")):
        gap = number in removed or (gap and not line.strip() and not (kept and kept[-1].strip()))
        if not gap:
            kept.append(line)
    return "\n".join(kept).rstrip("\n") if gap else "\n".join(kept)
