"""How much of a text repeats itself, by n-grams of words and of characters."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import c_int64
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from luban.native import load, pointer

if TYPE_CHECKING:
    from luban.data.step import Packed
    from luban.data.text.words import Words

_SOURCE = Path(__file__).with_name("repetition.cpp")


def gopher_repetition(
    words: Words, top_n: Sequence[int], repeat_n: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Characters in the most frequent n-gram [texts, top_n], and in repeated n-grams [texts, repeat_n].

    Both must rise: where no n-gram repeats, the longer ones are not looked at.

    Source: Rae et al. 2021, table A1 (arXiv:2112.11446), as datatrove counts it: the words are told apart by
    case, the most frequent one is as long as its words with spaces, and a repeated one as its words without.
    """
    count = len(words.starts)
    top_sizes, repeat_sizes = np.array(top_n, np.int64), np.array(repeat_n, np.int64)
    tops = np.zeros((count, len(top_n)), np.int64)
    repeats = np.zeros((count, len(repeat_n)), np.int64)
    load(_SOURCE).luban_gopher_repetition(
        pointer(words.hashes, np.uint64),
        pointer(words.characters, np.uint32),
        pointer(words.starts, np.int64),
        pointer(words.counts, np.int64),
        c_int64(count),
        pointer(top_sizes, np.int64),
        c_int64(len(top_n)),
        pointer(repeat_sizes, np.int64),
        c_int64(len(repeat_n)),
        pointer(tops, np.int64),
        pointer(repeats, np.int64),
    )
    return tops, repeats


def roots_repetition(
    packed: Packed, character_n: np.ndarray, word_n: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Shares of repeated character n-grams and word n-grams, with each text's own n (int64 [texts]).

    Source: Laurençon et al. 2022, appendix (arXiv:2303.03915). Of the characters, only the sqrt(different) most
    frequent n-grams count, so that a long text is not punished for its length.
    """
    shares = np.zeros((len(packed.starts), 2), np.float64)
    load(_SOURCE).luban_roots_repetition(
        *packed.arguments,
        pointer(character_n, np.int64),
        pointer(word_n, np.int64),
        pointer(shares, np.float64),
    )
    return shares[:, 0], shares[:, 1]
