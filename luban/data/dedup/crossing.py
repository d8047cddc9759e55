"""Train against holdout: a training document that the held-out side has too, exactly or nearly, goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from luban.data.dedup.buckets import Buckets, Parts, buckets, joined, part_starts, save, working_folder
from luban.data.dedup.components import Sets, match_marked, write_decisions
from luban.data.dedup.exact import digests
from luban.data.dedup.minhash import SHARE_OF_SETS, MinHash
from luban.data.step import Batch, Drop, Outcome


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """Drop training documents with a copy (`in_holdout`) or a near-duplicate (`near_holdout`) held out.

    Near-duplicates are pairs, not chains: the document itself is like one that is held out. Held-out documents
    stay, whatever they resemble. A document is held out if its meta says so.

    Source: SlimPajama (Cerebras 2023), which compares by SHA-256 alone.
    """

    key: str = "split"
    """Where a document's meta says its side."""
    holdout: tuple[str, ...] = ("holdout", "validation", "test", "dev")
    """Sides that are held out; all other documents train."""
    near: MinHash = field(default_factory=MinHash)
    """What counts as nearly the same; its `score` has no part in it."""

    def collect(self, batch: Batch) -> Mapping[str, np.ndarray]:
        sides = [str(document.meta.get(self.key)) in self.holdout for document in batch.documents]
        return {
            **self.near.sketch(batch),
            "digests": digests(batch.texts),
            "holdout": np.array(sides, np.uint8),
        }

    def resolve(self, parts: Parts, decisions: Sequence[Path], *, memory: int) -> None:
        """A part's decisions: the held-out (part, index), and 0 for a copy, 1 for a near one; [documents, 3]."""
        with working_folder(decisions) as folder:
            held = joined(parts, "holdout", folder)
            match = np.full(len(held), -1, np.int64)
            rest = memory - match.nbytes
            for found in buckets(joined(parts, "digests", folder), memory=rest):
                match_marked(match, held, found, None, 0)
            near = match < 0
            sets = Sets.of(parts, folder) if self.near.verify else None
            for band in joined(parts, "keys", folder):
                for found in buckets(band, memory=rest):
                    self._match_near(match, held, found, sets, rest // SHARE_OF_SETS)
            starts = part_starts(parts, "holdout")
            write_decisions(decisions, starts, match)
            for path, start, stop in zip(decisions, starts[:-1], starts[1:], strict=True):
                save(path, np.column_stack([np.load(path), near[start:stop]]))

    def _match_near(
        self, match: np.ndarray, held: np.ndarray, found: Buckets, sets: Sets | None, most: int
    ) -> None:
        for piece in sets.pieces(found, most) if sets else (found,):
            match_marked(match, held, piece, sets, self.near.threshold)

    def apply(self, batch: Batch, decisions: np.ndarray) -> list[Outcome]:
        own = decisions[batch.first : batch.first + len(batch.documents)].tolist()
        reasons = ("in_holdout", "near_holdout")
        return [None if part < 0 else Drop(reasons[near], f"{part}/{index}") for part, index, near in own]
