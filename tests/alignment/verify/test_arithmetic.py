"""Exact arithmetic: values by hand, the last number of an answer, and rows that have none."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luban.alignment.verify import VERIFIERS
from luban.alignment.verify.arithmetic import last_number, value
from luban.errors import DataError


@pytest.mark.parametrize(
    ("expression", "by_hand"),
    [
        ("42", 42),
        ("-3", -3),
        ("3 * (4 + 5)", 27),
        ("7/2", Fraction(7, 2)),
        ("0.1 + 0.2", Fraction(3, 10)),
        ("1,234.5", Fraction(2469, 2)),
        ("2**10 - 1", 1023),
        ("-(2 - 5)", 3),
    ],
)
def test_an_expression_is_worth_what_it_is_by_hand(expression: str, by_hand: Fraction) -> None:
    assert value(expression) == by_hand


@given(st.integers(-999, 999), st.integers(-999, 999), st.integers(1, 99))
def test_values_are_exact(a: int, b: int, c: int) -> None:
    assert value(f"({a}) * {c} + ({b})/{c}") == a * c + Fraction(b, c)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12 + 30 = 42", 42),
        ("it is -7.", -7),
        ("about 1,000.50 dollars", Fraction(2001, 2)),
        ("one half is 1/2", Fraction(1, 2)),
        ("none", None),
        ("1/0", None),
    ],
)
def test_an_answer_s_last_number_counts(text: str, number: Fraction | None) -> None:
    assert last_number(text) == number


@pytest.mark.parametrize(
    ("answer", "score"), [("The sum: 0.3", 1), ("3/10", 1), ("0.30000000000000004", 0), ("", 0)]
)
def test_an_answer_is_right_to_the_last_digit_or_wrong(answer: str, score: float) -> None:
    assert VERIFIERS["arithmetic"].score({"answer": "0.1+0.2"}, answer) == score


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({}, "no 'answer'"),
        ({"answer": "forty"}, "'forty' is no arithmetic"),
        ({"answer": "__import__('os')"}, "no arithmetic"),
        ({"answer": "1/0"}, "divides by zero"),
        ({"answer": "9**9**9"}, "power"),
        ({"answer": ""}, "no arithmetic"),
    ],
)
def test_a_row_without_a_value_is_refused(row: dict[str, str], told: str) -> None:
    with pytest.raises(DataError, match=told.replace("(", r"\(").replace("*", r"\*")):
        VERIFIERS["arithmetic"].check(row)
