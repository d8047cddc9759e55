"""Gopher's heuristics for text that a person wrote to be read, and against text that repeats itself.

Source: Rae et al. 2021, appendix A1 and table A1 (arXiv:2112.11446); details the paper leaves open follow datatrove.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from luban.data.step import Batch, Outcome, drop_where
from luban.data.text.repetition import gopher_repetition
from luban.data.text.statistics import share


@dataclass(frozen=True, kw_only=True)
class GopherQuality:
    """Drop texts whose words, symbols or lines are not those of prose."""

    min_words: int = 50
    """Words that are not mere signs."""
    max_words: int = 100_000
    min_mean_word: float = 3
    """Characters."""
    max_mean_word: float = 10
    max_symbols: float = 0.1
    """Hash signs, or ellipses, per word."""
    max_bullet_lines: float = 0.9
    """Share of the lines."""
    max_ellipsis_lines: float = 0.3
    min_alphabetic: float = 0.8
    """Share of the words with a letter."""
    min_stop_words: int = 2
    """How many of the, be, to, of, and, that, have, with must occur; 0 for other languages than English."""

    def __call__(self, batch: Batch) -> Sequence[Outcome]:
        table = batch.statistics
        mean = share(table.plain_word_characters, table.plain_words)
        hashes = share(table.hashes, table.words)
        ellipses = share(table.ellipses, table.words)
        bullets = share(table.bullet_lines, table.lines)
        trailing = share(table.ellipsis_lines, table.lines)
        alphabetic = share(table.alphabetic_words, table.words)
        return drop_where(
            len(batch.documents),
            [
                ("gopher_few_words", table.plain_words < self.min_words, table.plain_words),
                ("gopher_many_words", table.plain_words > self.max_words, table.plain_words),
                ("gopher_short_words", mean < self.min_mean_word, mean),
                ("gopher_long_words", mean > self.max_mean_word, mean),
                ("gopher_hashes", hashes > self.max_symbols, hashes),
                ("gopher_ellipses", ellipses > self.max_symbols, ellipses),
                ("gopher_bullets", bullets > self.max_bullet_lines, bullets),
                ("gopher_ellipsis_lines", trailing > self.max_ellipsis_lines, trailing),
                ("gopher_alphabetic", alphabetic < self.min_alphabetic, alphabetic),
                ("gopher_stop_words", table.stop_words < self.min_stop_words, table.stop_words),
            ],
        )


def _top_limits() -> dict[int, float]:
    return {2: 0.20, 3: 0.18, 4: 0.16}


def _repeated_limits() -> dict[int, float]:
    return {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}


@dataclass(frozen=True, kw_only=True)
class GopherRepetition:
    """Drop texts with too many repeated lines, paragraphs or n-grams of words."""

    max_lines: float = 0.30
    """Share of the lines that came before in the text."""
    max_paragraphs: float = 0.30
    max_line_characters: float = 0.20
    """Share of the characters that are in such lines."""
    max_paragraph_characters: float = 0.20
    max_top: Mapping[int, float] = field(default_factory=_top_limits)
    """For each n, the share of the characters that the most frequent n-gram may have."""
    max_repeated: Mapping[int, float] = field(default_factory=_repeated_limits)
    """For each n, the share of the characters that may be in n-grams that came before."""

    def __call__(self, batch: Batch) -> Sequence[Outcome]:
        table = batch.statistics
        paragraphs = share(table.repeated_paragraphs, table.paragraphs)
        paragraph_characters = share(table.repeated_paragraph_characters, table.characters)
        lines = share(table.repeated_pieces, table.pieces)
        line_characters = share(table.repeated_piece_characters, table.characters)
        return drop_where(
            len(batch.documents),
            [
                ("empty", table.characters == 0, None),
                ("gopher_paragraphs", paragraphs > self.max_paragraphs, paragraphs),
                (
                    "gopher_paragraph_characters",
                    paragraph_characters > self.max_paragraph_characters,
                    paragraph_characters,
                ),
                ("gopher_lines", lines > self.max_lines, lines),
                ("gopher_line_characters", line_characters > self.max_line_characters, line_characters),
                *self._n_gram_rules(batch),
            ],
        )

    def _n_gram_rules(self, batch: Batch) -> list[tuple[str, np.ndarray, np.ndarray | None]]:
        top, repeated = sorted(self.max_top), sorted(self.max_repeated)
        tops, repeats = gopher_repetition(batch.words, top, repeated)
        rules: list[tuple[str, np.ndarray, np.ndarray | None]] = []
        for column, n in enumerate(top):
            value = share(tops[:, column], batch.statistics.characters)
            rules.append((f"gopher_top_{n}_gram", value > self.max_top[n], value))
        for column, n in enumerate(repeated):
            value = share(repeats[:, column], batch.statistics.characters)
            rules.append((f"gopher_repeated_{n}_grams", value > self.max_repeated[n], value))
        return rules
