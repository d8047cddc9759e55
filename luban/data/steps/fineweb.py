"""FineWeb's own filters: lists and fragments that Gopher's and C4's rules let pass.

Source: Penedo et al. 2024, section 3.6 (arXiv:2406.17557).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from luban.data.step import Batch, Outcome, drop_where
from luban.data.text.statistics import share


@dataclass(frozen=True, kw_only=True)
class FineWeb:
    """Drop texts whose lines mostly do not end a sentence, are short, or repeat."""

    min_terminal_lines: float = 0.12
    """Share of the lines whose last character ends a sentence."""
    max_short_lines: float = 0.67
    """Share of the lines of at most 30 characters."""
    max_repeated_characters: float = 0.01
    """Share of the characters that are in lines that came before in the text."""
    max_newlines: float = 0.3
    """Newlines per word."""

    def __call__(self, batch: Batch) -> Sequence[Outcome]:
        table = batch.statistics
        terminal = share(table.terminal_lines, table.filled_lines)
        short = share(table.short_lines, table.filled_lines)
        repeated = share(table.repeated_filled_characters, table.characters - table.newlines)
        newlines = share(table.newlines, table.words)
        return drop_where(
            len(batch.documents),
            [
                ("empty", table.filled_lines == 0, None),
                ("fineweb_terminal_lines", terminal < self.min_terminal_lines, terminal),
                ("fineweb_short_lines", short > self.max_short_lines, short),
                ("fineweb_repeated_characters", repeated > self.max_repeated_characters, repeated),
                ("fineweb_newlines", newlines > self.max_newlines, newlines),
            ],
        )
