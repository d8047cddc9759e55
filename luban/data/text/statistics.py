"""Counts of characters, lines, paragraphs and words: one row per text, one pass for all filters."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from luban.native import load, pointer

if TYPE_CHECKING:
    from luban.data.step import Packed
    from luban.data.text.words import Words

SHORT_LINE = 30
"""Characters up to which a line is short (FineWeb; `statistics.cpp` has the same)."""
_SOURCE = Path(__file__).with_name("statistics.cpp")


@dataclass(frozen=True, kw_only=True, eq=False)
class Statistics:
    """One number per text in each column, int64. Lengths are in characters; words are those of `words.hpp`."""

    characters: np.ndarray
    letters: np.ndarray
    uppers: np.ndarray
    digits: np.ndarray
    ideographs: np.ndarray
    specials: np.ndarray
    """Figures, white space, punctuation and symbols."""
    solid: np.ndarray
    """Characters that are neither white space nor punctuation nor symbols."""
    hashes: np.ndarray
    """`#`."""
    ellipses: np.ndarray
    """`...` and `…`."""
    newlines: np.ndarray
    lines: np.ndarray
    """Between newlines, empty ones too; none after a final newline."""
    bullet_lines: np.ndarray
    """Lines beginning with `•` or `-`."""
    ellipsis_lines: np.ndarray
    """Lines ending with an ellipsis."""
    filled_lines: np.ndarray
    """Lines of more than white space."""
    terminal_lines: np.ndarray
    """Filled lines whose last character ends a sentence, in any script."""
    short_lines: np.ndarray
    """Filled lines of at most `SHORT_LINE` characters."""
    longest_line: np.ndarray
    pieces: np.ndarray
    """What runs of newlines part: Gopher's lines."""
    repeated_pieces: np.ndarray
    """Those that came before in the same text."""
    repeated_piece_characters: np.ndarray
    repeated_filled_characters: np.ndarray
    """The same for filled lines only: FineWeb's duplicates."""
    paragraphs: np.ndarray
    """What empty lines part."""
    repeated_paragraphs: np.ndarray
    repeated_paragraph_characters: np.ndarray
    words: np.ndarray
    plain_words: np.ndarray
    """Words that are not mere signs."""
    plain_word_characters: np.ndarray
    alphabetic_words: np.ndarray
    """Words with a letter."""
    stop_words: np.ndarray
    """How many of the, be, to, of, and, that, have, with occur."""

    def take(self, rows: np.ndarray) -> Statistics:
        """Some of the texts' numbers."""
        return Statistics(**{name: column[rows] for name, column in vars(self).items()})


def statistics_of(packed: Packed, words: Words) -> Statistics:
    """Count everything in every text, whose words are given."""
    names = [field.name for field in fields(Statistics)]
    rows = np.zeros((len(packed.starts), len(names)), np.int64)
    load(_SOURCE).luban_statistics(
        *packed.arguments,
        pointer(words.kinds, np.uint16),
        pointer(words.characters, np.uint32),
        pointer(words.starts, np.int64),
        pointer(words.counts, np.int64),
        pointer(rows, np.int64),
    )
    return Statistics(**dict(zip(names, rows.T, strict=True)))


def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part / whole`, and 0 where there is no whole."""
    return part / np.maximum(whole, 1)
