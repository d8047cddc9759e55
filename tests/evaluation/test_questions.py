"""Questions: what counts as right, and the interval around the share."""

from __future__ import annotations

from pathlib import Path

import pytest

from luban.errors import DataError
from luban.evaluation.questions import read_questions, same, wilson


@pytest.mark.parametrize(
    ("given", "right"), [("Law", True), (" law.\n", True), ("the law", False), ("", False)]
)
def test_an_answer_is_right_if_it_is_equal_after_normalisation(given: str, right: bool) -> None:
    assert same(given, "law") is right


def test_wilsons_interval_of_one_in_ten_is_the_published_one() -> None:
    # Wilson score interval for 1 of 10 at 95 %: 0.0179 to 0.4042.
    assert wilson(1, 10) == pytest.approx((0.0179, 0.4042), abs=1e-4)


def test_a_row_that_does_not_end_with_an_answer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "why?"}]}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"questions\.jsonl:1: a question row must end"):
        read_questions(path, None)
