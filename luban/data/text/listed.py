"""How many of a text's words stand in a list: closed-class words, flagged words, one of two scripts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from ctypes import c_int64
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from luban.native import load, pointer

if TYPE_CHECKING:
    from luban.data.step import Packed


def count_listed(packed: Packed, lists: Sequence[Collection[str]]) -> tuple[np.ndarray, np.ndarray]:
    """All words of each text that are not signs [texts], and how many of them stand in each list [texts, lists].

    Case does not matter. An entry of two to four ideographs counts where they lie end to end.
    """
    entries: dict[str, int] = {}
    for bit, words in enumerate(lists):
        for word in words:
            entries[word] = entries.get(word, 0) | 1 << bit
    encoded = type(packed).of(list(entries))
    bits = np.fromiter(entries.values(), np.int64, len(entries))
    counts = np.zeros((len(packed.starts), 1 + len(lists)), np.int64)
    load(Path(__file__).with_name("listed.cpp")).luban_listed(
        pointer(encoded.buffer, np.uint8),
        pointer(encoded.starts, np.int64),
        pointer(encoded.lengths, np.int64),
        pointer(bits, np.int64),
        c_int64(len(entries)),
        c_int64(len(lists)),
        *packed.arguments,
        pointer(counts, np.int64),
    )
    return counts[:, 0], counts[:, 1:]
