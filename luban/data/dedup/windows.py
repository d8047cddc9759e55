"""Windows of N words of a text: the anchors that stand for them, and texts with some of their words cut out.

Two equal windows have the same smallest inner phrase, wherever they stand. So it is enough to compare these
anchors, one to about every N/4 words, to know where two windows can be equal at all.
"""

from __future__ import annotations

from ctypes import c_int64
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from luban import native
from luban.data.step import Packed


@dataclass(frozen=True, slots=True)
class Anchors:
    """All texts' entries end to end. A text of fewer words than the window has none of either kind."""

    words: np.ndarray
    """uint64: a hash of each word's bytes."""
    hashes: np.ndarray
    """uint64: one per anchor, equal where its phrase is."""
    firsts: np.ndarray
    """uint32: the first window of its text that an anchor stands for; the next anchor's ends it."""
    sizes: np.ndarray
    """int64 [texts, 2]: how many words and anchors each text has."""


def find_anchors(packed: Packed, window: int) -> Anchors:
    """The anchors of all windows of `window` words.

    Words are those of `luban/native/words.hpp`, signs included, as they are written; white space does not count.
    Source: Schleimer et al. 2003 (winnowing), here as a filter before an exact comparison.
    """
    room, count = int(packed.lengths.sum()), len(packed.starts)
    scratch, words, hashes = (np.empty(room, np.uint64) for _ in range(3))  # unwritten pages cost no memory
    firsts, sizes = np.empty(room, np.uint32), np.zeros((count, 2), np.int64)
    native.load(Path(__file__).with_name("windows.cpp")).anchors(
        *_texts(packed),
        c_int64(window),
        c_int64(max(1, window // 2)),
        native.pointer(scratch, np.uint64),
        native.pointer(words, np.uint64),
        native.pointer(hashes, np.uint64),
        native.pointer(firsts, np.uint32),
        native.pointer(sizes, np.int64),
    )
    word_count, anchor_count = sizes.sum(axis=0)
    return Anchors(
        words[:word_count].copy(), hashes[:anchor_count].copy(), firsts[:anchor_count].copy(), sizes
    )


def cut_words(packed: Packed, cuts: np.ndarray) -> list[str]:
    """The texts without some of their words.

    `cuts` [n, 3] int64 are (text, first word, end word), sorted, with at least one word between two of a text.
    Of the white space around a cut the side with more line breaks stays. Where none is and both sides are
    letters or figures of a script that spaces its words, a space comes between them; nothing else changes.
    """
    count, cuts = len(packed.starts), np.ascontiguousarray(cuts)
    out = np.empty(int(packed.lengths.sum()) + len(cuts), np.uint8)
    lengths = np.empty(count, np.int64)
    native.load(Path(__file__).with_name("windows.cpp")).cut(
        *_texts(packed),
        native.pointer(cuts, np.int64),
        c_int64(len(cuts)),
        native.pointer(out, np.uint8),
        native.pointer(lengths, np.int64),
    )
    ends = np.cumsum(lengths)
    spans = zip(ends - lengths, ends, strict=True)
    return [out[start:end].tobytes().decode("utf-8") for start, end in spans]


def _texts(packed: Packed) -> tuple:
    return (*packed.arguments,)
