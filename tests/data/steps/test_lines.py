"""RefinedWeb's corrections line by line."""

from __future__ import annotations

import pytest

from luban.data.step import Drop, Edit
from luban.data.steps.lines import LineCorrections
from tests.data.steps.batches import batch_of

PROSE = ["The house that stood on the hill belonged to a family with three children."] * 3


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ("line_capitals", "SUBSCRIBE TO OUR PAGE"),
        ("line_capitals", "NEWS FROM Here"),
        ("line_figures", "12 / 05 / 2021"),
        ("line_figures", "1.234,5"),
        ("line_counter", "3 likes"),
        ("line_counter", "1,204 Comments"),
        ("line_counter", "2.5k views"),
        ("line_counter", "12K+ followers"),
        ("line_one_word", "Home"),
        ("line_one_word", "  Menu >"),
        ("line_navigation", "Sign in to your account"),
        ("line_navigation", "Five more reasons to go. Read more..."),
        ("line_navigation", "There are 3 items in cart"),
        ("line_navigation", "登录你的账号"),
    ],
)
def test_a_line_that_is_no_text_is_removed_and_counted(rule: str, line: str) -> None:
    (outcome,) = LineCorrections(max_removed=0.5)(batch_of(["\n".join([PROSE[0], line, *PROSE[1:]])]))
    assert outcome == Edit("\n".join(PROSE), changes={rule: 1})


@pytest.mark.parametrize(
    "line",
    [
        "",
        "* * *",
        "Two words",
        "NASA and ESA said so.",
        "He has 3 likes and dislikes.",
        "Reading more makes you wiser.",
        "Sign inspectors came by.",
        "She asked what the items in cartons were.",
        "This long line tells how they clicked on read more and what came of it, in the end read more",
        "房子。",
    ],
)
def test_text_stays(line: str) -> None:
    assert LineCorrections()(batch_of(["\n".join([*PROSE, line, *PROSE])])) == [None]


def test_a_text_that_would_lose_more_than_a_twentieth_of_its_words_goes_whole() -> None:
    """Each sentence has 14 words; one removed word of 14 + 1 is more than a twentieth, of 42 + 1 it is less."""
    few, many = "\n".join([PROSE[0], "Home"]), "\n".join([*PROSE, "Home"])
    outcomes = LineCorrections()(batch_of([few, many]))
    assert outcomes == [
        Drop("line_corrections", 1 / 15),
        Edit("\n".join(PROSE), changes={"line_one_word": 1}),
    ]


def test_empty_lines_and_indentation_stay_as_they_are() -> None:
    text = f"{PROSE[0]}\n\n    {PROSE[0]}\n\n\n{PROSE[0]}\n"
    assert LineCorrections()(batch_of([text, ""])) == [None, None]
