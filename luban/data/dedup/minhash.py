"""Near-duplicate documents by MinHash: bands of a signature propose pairs, shingle sets confirm them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le

from luban.data.dedup.buckets import Buckets, Parts, buckets, joined, part_starts, working_folder
from luban.data.dedup.components import Forest, Sets, drop_copies, write_decisions
from luban.data.dedup.lsh import choose_bands
from luban.data.dedup.shingles import shingles
from luban.data.dedup.signatures import band_keys, signatures
from luban.data.step import Batch, Outcome
from luban.errors import ConfigError

SHARE_OF_SETS = 4
"""Shingle sets that are compared take up to a fourth of the memory at a time."""


@dataclass(frozen=True, kw_only=True)
class MinHash:
    """Keep one of each group of near-duplicates, drop the others: `near_duplicate`.

    Documents that agree in all rows of a band are candidates; a pair of Jaccard similarity J is one with
    probability 1 - (1 - J^rows)^bands. Words are compared in lower case, signs left out.

    Source: Broder 1997; Lee et al. 2022 (arXiv:2107.06499), appendix A, without verification by edit distance but
    by the true Jaccard similarity of the shingle sets.
    FineWeb: ngram 5, 14 bands of 8 rows. SlimPajama: ngram 13, threshold 0.8, 9 bands of 13. RefinedWeb's 9,000
    hashes, "20 buckets of 450", are 450 bands of 20 rows in these terms.
    """

    ngram: Annotated[int, Ge(1)] = 5
    """Words in a shingle."""
    threshold: Annotated[float, Gt(0), Le(1)] = 0.7
    """Jaccard similarity from which on two documents count as one."""
    bands: Annotated[int, Ge(0)] = 14
    """Chances to become candidates; 0, with rows 0: both from threshold and hashes."""
    rows: Annotated[int, Ge(0)] = 8
    """Values that must agree in a band."""
    hashes: Annotated[int, Ge(1)] = 128
    """The most values a signature may have where bands and rows are chosen."""
    verify: bool = True
    """Compare candidates' shingles (4 bytes a word on disk); false: a shared band alone decides."""
    score: str | None = None
    """Keep the document with the highest number under this key of its meta (one without it ranks last); none: the
    longest. The first of equals."""

    def __post_init__(self) -> None:
        if bool(self.bands) != bool(self.rows):
            what = f"settings 'bands' ({self.bands}) and 'rows' ({self.rows}) go together"
            raise ConfigError(what, hint="both, or 0 for both")

    @property
    def banding(self) -> tuple[int, int]:
        """Bands and rows, given or chosen."""
        return (self.bands, self.rows) if self.bands else choose_bands(self.threshold, self.hashes)

    def collect(self, batch: Batch) -> Mapping[str, np.ndarray]:
        return {**self.sketch(batch), "ranks": self._ranks(batch)}

    def sketch(self, batch: Batch) -> dict[str, np.ndarray]:
        """What finds near-duplicates of these documents: a key per band and, to verify, the shingles."""
        bands, rows = self.banding
        items, counts = shingles(batch.packed, self.ngram)
        keys = band_keys(signatures(items, counts, bands * rows), counts, bands=bands, rows=rows)
        return {"keys": keys, "counts": counts, "shingles": items} if self.verify else {"keys": keys}

    def resolve(self, parts: Parts, decisions: Sequence[Path], *, memory: int) -> None:
        with working_folder(decisions) as folder:
            ranks = joined(parts, "ranks", folder)
            forest = Forest(len(ranks))
            sets = Sets.of(parts, folder) if self.verify else None
            rest = memory - forest.parent.nbytes
            for band in joined(parts, "keys", folder):
                for found in buckets(band, memory=rest):
                    self._unite(forest, found, sets, rest // SHARE_OF_SETS)
            write_decisions(decisions, part_starts(parts, "ranks"), forest.keepers(ranks))

    def apply(self, batch: Batch, decisions: np.ndarray) -> list[Outcome]:
        return drop_copies(batch, decisions, "near_duplicate")

    def _unite(self, forest: Forest, found: Buckets, sets: Sets | None, most: int) -> None:
        if sets is None:
            forest.unite_all(found)
            return
        for piece in sets.pieces(found, most):
            forest.unite_similar(piece, sets, self.threshold)

    def _ranks(self, batch: Batch) -> np.ndarray:
        if self.score is None:
            return np.array([len(document.text) for document in batch.documents], np.float64)
        return np.array([rank(document.meta.get(self.score)) for document in batch.documents], np.float64)


def rank(value: object) -> float:
    """A score as a number; what is none (missing, a word, NaN) ranks below all others."""
    if isinstance(value, int | float) and not math.isnan(value):
        return float(value)
    return -math.inf
