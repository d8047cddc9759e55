"""Source code that people wrote: neither stubs nor data nor minified files.

Source: size, letters and lines as in AlphaCode (Li et al. 2022, arXiv:2203.07814) and ROOTS (Laurençon et al. 2022);
line lengths as in Codex (Chen et al. 2021, section 3.1, arXiv:2107.03374).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from luban.data.step import Batch, Outcome, drop_where
from luban.data.text.statistics import share


@dataclass(frozen=True, kw_only=True)
class Code:
    """Drop files by size, share of letters, and number and length of lines."""

    min_characters: int = 100
    max_characters: int = 200_000
    min_letters: float = 0.15
    """Share of the characters."""
    max_letters: float = 0.65
    min_lines: int = 20
    max_lines: int = 1000
    max_line: int = 1000
    """Characters in the longest line."""
    max_mean_line: float = 100
    """Characters, white space included."""

    def __call__(self, batch: Batch) -> Sequence[Outcome]:
        table = batch.statistics
        letters = share(table.letters, table.characters)
        mean = share(table.characters - table.newlines, table.lines)
        return drop_where(
            len(batch.documents),
            [
                ("code_short", table.characters < self.min_characters, table.characters),
                ("code_long", table.characters > self.max_characters, table.characters),
                ("code_few_letters", letters < self.min_letters, letters),
                ("code_many_letters", letters > self.max_letters, letters),
                ("code_few_lines", table.lines < self.min_lines, table.lines),
                ("code_many_lines", table.lines > self.max_lines, table.lines),
                ("code_long_line", table.longest_line > self.max_line, table.longest_line),
                ("code_long_lines", mean > self.max_mean_line, mean),
            ],
        )
