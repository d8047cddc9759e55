"""Cleaning changes how a text is spelled, not what it says, and never twice."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from luban.data.clean import STEPS, Duplicates, clean, drop_reason


@pytest.mark.parametrize(
    ("dirty", "code", "expected"),
    [
        ("a\r\nb\rc\u2028d", "newline", "a\nb\nc\nd"),
        ("a\0b\x1b[31mc\u200bd\ufeff", "invisible", "ab[31mcd"),
        ("cafe\u0301", "nfc", "café"),
        ("a  \n\tb\u3000", "trailing_space", "a\n\tb"),
        ("a\n\n\n\nb", "blank_lines", "a\n\nb"),
    ],
)
def test_each_step_removes_its_kind_of_dirt_and_says_so(dirty: str, code: str, expected: str) -> None:
    assert STEPS[code](dirty) == expected
    assert clean(dirty) == (expected, [code])


def test_clean_text_stays_as_it_is() -> None:
    text = "　　鲁班是木匠。\n\n\tif x:\n👩‍👩‍👧 می‌خواهم"
    assert clean(text) == (text, [])


@given(st.text(st.characters(exclude_categories=["Cs"])))
@example("e\0\u0301")
@example("a \n \n \n\r\n b\u200b ")
@settings(max_examples=300)
def test_cleaning_twice_changes_nothing_more(text: str) -> None:
    once, _ = clean(text)
    assert clean(once) == (once, [])


def test_empty_and_short_texts_have_their_reasons() -> None:
    assert drop_reason("", min_chars=3) == "empty"
    assert drop_reason("木匠", min_chars=3) == "short"
    assert drop_reason("木匠鲁", min_chars=3) is None


def test_only_an_exact_repetition_is_a_duplicate() -> None:
    duplicates = Duplicates()
    assert [duplicates.seen(text) for text in ("a", "b", "a", "A", "a")] == [False, False, True, False, True]
