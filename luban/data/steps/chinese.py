"""Chinese prose from the web: enough of it, in whole sentences, in the script that is wanted, said once.

Source: length, share of Chinese, line length and repeated 13-grams after ChineseWebText's rules (Chen et al. 2023,
section 3.1, arXiv:2311.01149); repeated 3-grams after ROOTS (Laurençon et al. 2022); ends of sentences after FineWeb.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from luban.data.step import Batch, Outcome, drop_where
from luban.data.steps.words import words_of
from luban.data.text.listed import count_listed
from luban.data.text.repetition import roots_repetition
from luban.data.text.statistics import share


@dataclass(frozen=True, kw_only=True)
class Chinese:
    """Drop texts that are not Chinese prose."""

    min_ideographs: int = 200
    min_share: float = 0.3
    """Ideographs among all characters but white space and signs."""
    min_mean_line: float = 10
    """Characters in a line that is not empty."""
    min_terminal_lines: float = 0.12
    """Share of the lines that end a sentence."""
    max_repetition: float = 0.2
    """Share of the most frequent 3-grams of characters."""
    max_repeated: float = 0.5
    """Share of the 13-grams of words that come more than once; an ideograph is a word."""
    max_traditional: float = 1.0
    """Traditional characters among those that the two scripts write differently; 1 takes both scripts."""

    def __call__(self, batch: Batch) -> Sequence[Outcome]:
        table, count = batch.statistics, len(batch.documents)
        ideographs = share(table.ideographs, table.solid)
        mean = share(table.characters - table.newlines, table.filled_lines)
        terminal = share(table.terminal_lines, table.filled_lines)
        repetition, repeated = roots_repetition(
            batch.packed, np.full(count, 3, np.int64), np.full(count, 13, np.int64)
        )
        _, scripts = count_listed(batch.packed, [words_of("simplified"), words_of("traditional")])
        traditional = share(scripts[:, 1], scripts.sum(axis=1))
        return drop_where(
            count,
            [
                ("chinese_short", table.ideographs < self.min_ideographs, table.ideographs),
                ("chinese_share", ideographs < self.min_share, ideographs),
                ("chinese_short_lines", mean < self.min_mean_line, mean),
                ("chinese_terminal_lines", terminal < self.min_terminal_lines, terminal),
                ("chinese_character_repetition", repetition > self.max_repetition, repetition),
                ("chinese_repeated_13_grams", repeated > self.max_repeated, repeated),
                ("chinese_traditional", traditional > self.max_traditional, traditional),
            ],
        )
