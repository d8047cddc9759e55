"""FineWeb's rules: each broken by a text made for it."""

from __future__ import annotations

import pytest

from luban.data.steps.fineweb import FineWeb
from tests.data.steps.batches import reasons

LINES = [f"Line {i} is long enough to count as one and it ends with a stop." for i in range(10)]


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("empty", " \n \n"),
        ("fineweb_terminal_lines", "\n".join(line.rstrip(".") for line in LINES)),
        ("fineweb_short_lines", "\n".join([*LINES[:3], *["Short one."] * 7])),
        ("fineweb_repeated_characters", "\n".join([*LINES, LINES[0]])),
        ("fineweb_newlines", "\n".join(f"{'word' * 8}{i}." for i in range(10))),
        (None, "\n".join(LINES)),
    ],
)
def test_a_text_that_breaks_a_rule_is_dropped_with_its_name(reason: str | None, text: str) -> None:
    assert reasons(FineWeb(), [text]) == [reason]


def test_a_short_line_has_at_most_thirty_characters() -> None:
    """Of two lines one is short: half of them, under two thirds; with a third one it is two thirds of them."""
    long, short = "It has more than thirty characters now.", "Exactly thirty, not one more.."
    assert len(short) == 30
    assert reasons(FineWeb(max_short_lines=0.6), [f"{long}\n{short}", f"{long}\n{short}\n!{short[1:]}"]) == [
        None,
        "fineweb_short_lines",
    ]
