"""Near-duplicate documents by SimHash: fingerprints of 64 bits that differ in few."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from ctypes import c_int64
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le

from luban import native
from luban.data.dedup.buckets import Parts, buckets, joined, part_starts, working_folder
from luban.data.dedup.components import Forest, drop_copies, write_decisions
from luban.data.dedup.shingles import shingles
from luban.data.step import Batch, Outcome
from luban.native import pointer

BITS = 64
SPREAD = np.uint64(0x9E3779B97F4A7C15)
"""Odd, so that multiplying by it keeps different keys different while it spreads them evenly."""


@dataclass(frozen=True, kw_only=True)
class SimHash:
    """Keep the longest of each group whose fingerprints are close, drop the others: `near_duplicate_simhash`.

    Unlike MinHash it weighs how often a shingle occurs. Every pair within the distance is found.

    Source: Charikar 2002; Manku et al. 2007, section 3 (tables of permuted blocks); settings as for ROOTS
    (Laurençon et al. 2022, arXiv:2303.03915): 6-grams, Hamming distance 4, and documents of more than 6,000
    characters left alone, as long ones come to look alike.
    """

    ngram: Annotated[int, Ge(1)] = 6
    """Words in a shingle."""
    distance: Annotated[int, Ge(0), Le(8)] = 4
    """Bits of 64 that may differ."""
    max_chars: Annotated[int, Ge(0)] = 6000
    """Leave longer documents alone, in and out of groups; 0: no limit."""

    def collect(self, batch: Batch) -> Mapping[str, np.ndarray]:
        lengths = np.array([len(document.text) for document in batch.documents], np.float64)
        prints = fingerprints(*shingles(batch.packed, self.ngram))
        if self.max_chars:
            prints[lengths > self.max_chars] = 0
        return {"fingerprints": prints, "lengths": lengths}

    def resolve(self, parts: Parts, decisions: Sequence[Path], *, memory: int) -> None:
        with working_folder(decisions) as folder:
            prints = joined(parts, "fingerprints", folder)
            forest = Forest(len(prints))
            rest = memory - forest.parent.nbytes
            for found in buckets(prints, memory=rest, transform=lambda chunk: chunk * SPREAD):
                forest.unite_all(found)
                prints[np.delete(found.rows, found.starts[:-1])] = 0  # the first of equals speaks for them
            self._unite_close(forest, prints, rest)
            others = forest.keepers(joined(parts, "lengths", folder))
            write_decisions(decisions, part_starts(parts, "lengths"), others)

    def apply(self, batch: Batch, decisions: np.ndarray) -> list[Outcome]:
        return drop_copies(batch, decisions, "near_duplicate_simhash")

    def _unite_close(self, forest: Forest, prints: np.ndarray, memory: int) -> None:
        for mask in masks(int(np.count_nonzero(prints)), self.distance):
            for found in buckets(prints, memory=memory, transform=functools.partial(_masked, mask=mask)):
                forest.unite_close(found, prints, self.distance)


def fingerprints(items: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """A fingerprint per text from its shingles; uint64, 0 for a text without any and for no other."""
    out = np.empty(len(counts), np.uint64)
    native.load(Path(__file__).with_name("simhash.cpp")).simhashes(
        pointer(items, np.uint32), pointer(counts, np.int64), c_int64(len(counts)), pointer(out, np.uint64)
    )
    out[out == 0] = 1
    out[counts == 0] = 0
    return out


def masks(count: int, distance: int) -> Iterator[int]:
    """Bits of which at least one choice is equal in any two fingerprints within `distance`.

    Of `distance + e` blocks at least e are equal: a mask for each choice of e blocks, with e as small as leaves
    about 16 of `count` fingerprints in a bucket. Nothing for distance 0: equal ones need no search.
    """
    if not distance:
        return
    equal = next(e for e in range(1, BITS) if e == 8 or 16 << (BITS * e // (distance + e)) >= count)
    edges = [BITS * i // (distance + equal) for i in range(distance + equal + 1)]
    blocks = [(1 << stop) - (1 << start) for start, stop in itertools.pairwise(edges)]
    for chosen in itertools.combinations(blocks, equal):
        yield sum(chosen)


def _masked(prints: np.ndarray, mask: int) -> np.ndarray:
    """An evenly spread key of the bits in `mask`; 0 for a fingerprint of 0 and for no other."""
    left_out = ~mask & (mask + 1)
    keys = ((prints & np.uint64(mask)) | np.uint64(left_out)) * SPREAD
    keys[prints == 0] = 0
    return keys
