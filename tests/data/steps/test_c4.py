"""C4's rules on lines and pages."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.data.step import Drop, Edit
from luban.data.steps.c4 import C4
from tests.data.steps.batches import batch_of, reasons

GOOD = [
    "This line has more than five words.",
    "Is that one a sentence as well?",
    'It says so, and then "stops."',
]


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        ("c4_no_end_of_sentence", "This line has no end of sentence"),
        ("c4_no_end_of_sentence", "This line does not know how to end..."),
        ("c4_no_end_of_sentence", ""),
        ("c4_few_words", "Only four words here."),
        ("c4_long_word", f"One word is {'x' * 1001} too long."),
        ("c4_javascript", "Please enable JavaScript to read this page."),
        ("c4_policy", "By reading on you accept our Privacy Policy."),
        ("c4_policy", "Like every other site this one uses cookies."),
    ],
)
def test_a_line_that_breaks_a_rule_goes_and_is_counted(reason: str, line: str) -> None:
    (outcome,) = C4()(batch_of(["\n".join([GOOD[0], line, *GOOD[1:]])]))
    assert outcome == Edit("\n".join(GOOD), changes={reason: 1})


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("c4_lorem_ipsum", "\n".join([*GOOD, "Lorem ipsum dolor sit amet consectetur."])),
        ("c4_curly_bracket", "\n".join([*GOOD, "The code is { and nothing else."])),
        ("c4_few_sentences", "\n".join(GOOD[:2])),
        ("c4_few_sentences", ""),
        (None, "\n".join(GOOD)),
        (None, "Here are a few words. And three sentences. On one line."),
    ],
)
def test_a_page_is_dropped_for_filler_code_or_want_of_sentences(reason: str | None, text: str) -> None:
    assert reasons(C4(), [text]) == [reason]


def test_a_curly_bracket_counts_only_in_lines_that_would_stay() -> None:
    """As in C4's code: a menu with a bracket goes as a line before it could cost the page."""
    assert reasons(C4(), ["\n".join([*GOOD, "{ menu }"])]) == [None]


def test_citation_marks_are_cut_out() -> None:
    marked = [f"{GOOD[0]}[1]", GOOD[1].replace("one", "one[citation needed]"), f"{GOOD[2]}[edit][]"]
    (outcome,) = C4()(batch_of(["\n".join(marked)]))
    assert outcome == Edit("\n".join(GOOD))


def test_other_brackets_stay() -> None:
    text = "\n".join([*GOOD, "See [note] and [12 as it was [3a] then."])
    assert C4()(batch_of([text])) == [None]


@settings(deadline=None)
@given(st.lists(st.one_of(st.sampled_from(GOOD), st.text()), max_size=6).map("\n".join))
def test_what_stays_is_lines_of_the_text(text: str) -> None:
    (outcome,) = C4(min_sentences=0, min_words_per_line=0)(batch_of([text]))
    if isinstance(outcome, Edit) and "[" not in text:
        lines = [line.strip() for line in text.split("\n")]
        assert outcome.text is not None
        assert not outcome.text or all(line in lines for line in outcome.text.split("\n"))
    if not isinstance(outcome, Drop):
        again = batch_of([text if outcome is None or outcome.text is None else outcome.text])
        assert C4(min_sentences=0, min_words_per_line=0)(again) == [None] or "[" in text
