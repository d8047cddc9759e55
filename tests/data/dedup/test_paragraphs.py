from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.data.dedup.paragraphs import Paragraphs, normalise, paragraph_keys, without_lines
from luban.data.step import Drop, Edit
from tests.data.dedup.corpora import documents, run

LINES = st.lists(st.sampled_from(["", "one", "Two!", "two", "3 men", "7 men", "---", "vier ä"]), max_size=6)


def test_lines_are_compared_without_case_digits_signs_and_accents() -> None:
    assert (
        normalise("Page 12: «Déjà VU»…\nsnake_case, 第3章。").decode() == "page 00 deja vu\nsnakecase 第0章"
    )


def test_a_key_is_the_first_64_bits_of_the_sha1_of_what_is_left() -> None:
    expected = int.from_bytes(hashlib.sha1(b"page 00").digest()[:8], "little")
    assert paragraph_keys(" Page 12!\n***\n").tolist() == [expected, 0, 0]


@settings(deadline=None)
@given(st.text(max_size=80))
def test_every_line_keeps_its_place(text: str) -> None:
    assert len(paragraph_keys(text)) == text.count("\n") + 1


@settings(deadline=None)
@given(st.text("ab0 \n.,A", max_size=60))
def test_the_short_way_for_ascii_is_the_long_way(text: str) -> None:
    long = normalise(f"{text}\né").rsplit(b"\n", 1)[0]
    assert normalise(text) == long


@settings(max_examples=40, deadline=None)
@given(st.lists(LINES, min_size=1, max_size=8), st.lists(st.integers(0, 8), max_size=2), st.integers(1, 4))
def test_only_the_first_of_equal_lines_is_left_in_the_corpus(
    texts: list[list[str]], cuts: list[int], batch: int
) -> None:
    corpus = documents(*map("\n".join, texts))
    inside = sorted({min(cut, len(texts)) for cut in cuts} - {0, len(texts)})
    outcomes = run(Paragraphs(min_chars=0), corpus, cuts=inside, batch=batch)
    seen: set[str] = set()
    for lines, outcome in zip(texts, outcomes, strict=True):
        plain = {"Two!": "two", "3 men": "0 men", "7 men": "0 men"}
        kept, removed = [], 0
        for line in filter(str.strip, lines):
            key = plain.get(line, line)
            repeated = key in seen
            seen |= {key} - {"---"}
            removed += repeated
            kept += [] if repeated else [line]
        if outcome is None:
            assert not removed
        else:
            assert isinstance(outcome, Edit)
            assert [line for line in (outcome.text or "").split("\n") if line.strip()] == kept
            assert outcome.changes == {"duplicate_paragraph": removed}


@pytest.mark.parametrize(
    ("text", "removed", "left"),
    [
        ("a\n\nb\n\nc", {2}, "a\n\nc"),
        ("a\nb\nc", {1}, "a\nc"),
        ("a\n\nb", {0}, "b"),
        ("a\n\n\nb\n", {3}, "a"),
        ("a\nb\n", {0}, "b\n"),
    ],
)
def test_a_removed_line_takes_the_gap_behind_it_along(text: str, removed: set[int], left: str) -> None:
    assert without_lines(text, removed) == left


def test_a_document_that_keeps_too_little_goes() -> None:
    header, body = "Our house, since 1990", "x" * 300
    outcomes = run(Paragraphs(), documents(f"{header}\n{body}", f"{header}\nshort", "short already", header))
    assert outcomes == [None, Drop("duplicate_paragraphs", 5), None, Drop("duplicate_paragraphs", 0)]
