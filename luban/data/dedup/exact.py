"""Exact duplicates: of documents with the same text one stays."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from luban.data.dedup.buckets import Parts, buckets, joined, part_starts, working_folder
from luban.data.dedup.components import Forest, drop_copies, write_decisions
from luban.data.step import Batch, Outcome


@dataclass(frozen=True, kw_only=True)
class Exact:
    """Drop each document whose text an earlier one has: `duplicate`.

    Texts are compared by the first 64 bits of their SHA-256: among n different texts the chance that any two are
    taken for one is about n^2 / 2^65 (0.03 % for 100 million).
    """

    def collect(self, batch: Batch) -> Mapping[str, np.ndarray]:
        return {"digests": digests(batch.texts)}

    def resolve(self, parts: Parts, decisions: Sequence[Path], *, memory: int) -> None:
        keep_first(parts, "digests", decisions, memory=memory)

    def apply(self, batch: Batch, decisions: np.ndarray) -> list[Outcome]:
        return drop_copies(batch, decisions, "duplicate")


def digests(texts: Sequence[str]) -> np.ndarray:
    """The first 64 bits of each text's SHA-256; uint64, never 0."""
    joint = b"".join(hashlib.sha256(text.encode("utf-8")).digest()[:8] for text in texts)
    found = np.frombuffer(joint, "<u8").astype(np.uint64)
    found[found == 0] = 1
    return found


def keep_first(
    parts: Parts, name: str, decisions: Sequence[Path], *, memory: int, ranks: str | None = None
) -> None:
    """Decide for one document of each key: the one of the highest rank if ranks are named, else the first."""
    with working_folder(decisions) as folder:
        keys = joined(parts, name, folder)
        forest = Forest(len(keys))
        for found in buckets(keys, memory=memory - forest.parent.nbytes):
            forest.unite_all(found)
        others = forest.keepers(joined(parts, ranks, folder)) if ranks else forest.parent
        write_decisions(decisions, part_starts(parts, name), others)
