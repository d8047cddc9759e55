"""Length without white space and signs."""

from __future__ import annotations

from luban.data.steps.length import Length
from tests.data.steps.batches import reasons


def test_white_space_and_signs_do_not_count() -> None:
    texts = ["word, " * 50, "word, " * 49 + "...\n" * 99, "漢" * 200]
    assert reasons(Length(), texts) == [None, "short", None]


def test_a_text_can_be_too_long() -> None:
    assert reasons(Length(min_characters=0, max_characters=3), ["abc", "abcd", ""]) == [None, "long", None]
