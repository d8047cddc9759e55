"""Loops inside a sentence ("and then and then and then and then"): cut to size, or cut out with their sentence."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import c_int, c_int64
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, Le

from luban import native
from luban.data.step import Batch, Drop, Edit, Outcome, Packed


@dataclass(frozen=True, kw_only=True)
class Loops:
    """Cut phrases that stand again and again within a sentence; models trained on them loop as well.

    A sentence ends at `.!?…。！？` and at a line break. Words are compared in lower case, signs are words; a phrase
    without a letter (rules, rows of figures) is no loop. Source: Holtzman et al. 2020 (arXiv:1904.09751) for what
    loops do to a model; the rule is ours.
    """

    phrase_words: Annotated[int, Ge(1), Le(63)] = 16
    """The longest phrase that is looked for."""
    times: Annotated[int, Ge(1)] = 3
    """How often a phrase may stand in a row ("holy, holy, holy")."""
    cut: Literal["copies", "sentence"] = "copies"
    """What goes: the copies beyond `times`, or the whole sentence."""
    max_share: Annotated[float, Gt(0), Le(1)] = 0.2
    """Drop a document that would lose more than this share of its characters."""

    def __call__(self, batch: Batch) -> Sequence[Outcome]:
        """`loops` counts the cuts, `loop_chars` the characters that went; a dropped document is `looping`."""
        outcomes: list[Outcome] = [None] * len(batch.documents)
        cuts, counts = find_loops(
            batch.packed, longest=self.phrase_words, times=self.times, sentences=self.cut == "sentence"
        )
        bounds = np.cumsum([0, *counts])
        for index in np.flatnonzero(counts).tolist():
            text = batch.documents[index].text
            kept = _without(text.encode("utf-8"), cuts[bounds[index] : bounds[index + 1]])
            outcomes[index] = self._outcome(text, kept, int(counts[index]))
        return outcomes

    def _outcome(self, before: str, after: str, loops: int) -> Outcome:
        gone = len(before) - len(after)
        if gone > self.max_share * len(before):
            return Drop("looping", gone / len(before))
        return Edit(after, changes={"loops": loops, "loop_chars": gone})


def find_loops(packed: Packed, *, longest: int, times: int, sentences: bool) -> tuple[np.ndarray, np.ndarray]:
    """All texts' stretches of bytes to cut, int64 [n, 2], and how many each text has."""
    count = len(packed.starts)
    out = np.empty((int(packed.lengths.sum()), 2), np.int64)  # unwritten pages cost no memory
    counts = np.zeros(count, np.int64)
    native.load(Path(__file__).with_name("loops.cpp")).loops(
        *packed.arguments,
        c_int64(longest),
        c_int64(times),
        c_int(sentences),
        native.pointer(out, np.int64),
        native.pointer(counts, np.int64),
    )
    return out[: counts.sum()].copy(), counts


def _without(raw: bytes, cuts: np.ndarray) -> str:
    """The text without the stretches."""
    kept = np.concatenate([[0], cuts.reshape(-1), [len(raw)]]).reshape(-1, 2)
    return b"".join(raw[begin:end] for begin, end in kept).decode("utf-8")
