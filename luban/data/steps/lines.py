"""RefinedWeb's line-wise corrections: what pages carry around their text goes line by line.

Source: Penedo et al. 2023, appendix G.2 (arXiv:2306.01116). The paper names examples of its patterns only; ours stand
in `words/navigation.txt`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from ctypes import c_double, c_int64
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from luban.data.step import Batch, Drop, Edit, Outcome, Packed
from luban.data.steps.words import lines_of
from luban.native import load, pointer

_RULES = ("line_capitals", "line_figures", "line_counter", "line_one_word", "line_navigation")
_PLACES = ("begins", "ends", "anywhere")


@dataclass(frozen=True, kw_only=True)
class LineCorrections:
    """Remove lines of capitals, of figures, counters ("3 likes"), single words and buttons ("read more").

    A text that would lose more than `max_removed` of its words is dropped as a whole.
    """

    max_removed: float = 0.05
    """Share of the words."""
    max_upper: float = 0.5
    """Share of a line's letters that may be capitals."""
    short_words: int = 10
    """Only lines of at most so many words are searched for counters and buttons."""

    def __call__(self, batch: Batch) -> Sequence[Outcome]:
        packed, count = batch.packed, len(batch.documents)
        phrases, places = _phrases()
        removed = np.zeros((count, len(_RULES)), np.int64)
        words = np.zeros((count, 2), np.int64)
        text, lengths = np.empty_like(packed.buffer), np.zeros(count, np.int64)
        load(Path(__file__).with_name("lines.cpp")).luban_lines(
            *_texts(packed),
            c_int64(count),
            *_texts(phrases),
            pointer(places, np.int64),
            c_int64(len(places)),
            c_double(self.max_upper),
            c_int64(self.short_words),
            pointer(removed, np.int64),
            pointer(words, np.int64),
            pointer(text, np.uint8),
            pointer(lengths, np.int64),
        )
        lost = words[:, 1] / np.maximum(words[:, 0], 1)
        outcomes: list[Outcome] = [None] * count
        for index in np.flatnonzero(removed.any(axis=1)):
            if lost[index] > self.max_removed:
                outcomes[index] = Drop("line_corrections", float(lost[index]))
                continue
            start = packed.starts[index]
            kept = text[start : start + lengths[index]].tobytes().decode("utf-8")
            changes = {rule: int(n) for rule, n in zip(_RULES, removed[index], strict=True) if n}
            outcomes[index] = Edit(kept.rstrip("\n"), changes=changes)
        return outcomes


@functools.cache
def _phrases() -> tuple[Packed, np.ndarray]:
    """The buttons, and where in a line each stands."""
    rows = [line.split(" ", 1) for line in lines_of("navigation")]
    places = np.array([_PLACES.index(place) for place, _ in rows], np.int64)
    return Packed.of([phrase for _, phrase in rows]), places


def _texts(packed: Packed) -> tuple[object, ...]:
    return (
        pointer(packed.buffer, np.uint8),
        pointer(packed.starts, np.int64),
        pointer(packed.lengths, np.int64),
    )
