"""Gopher's rules: each broken by a text made for it, and none by prose."""

from __future__ import annotations

import pickle

import pytest

from luban.data.step import Drop
from luban.data.steps.gopher import GopherQuality, GopherRepetition
from tests.data.steps.batches import batch_of, reasons

PROSE = (
    "The house that stood on the hill belonged to a family with three children. Each of them left it in turn, and "
    "the old people stayed behind with their dog. One winter the road was closed by snow for two weeks, so nobody "
    "could visit; they lived on what the cellar held. When spring came at last, the eldest son returned to have a look."
)
WORD = "neighbourhood "


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("gopher_few_words", PROSE[:150]),
        ("gopher_many_words", "and the word " * 34_000),
        ("gopher_short_words", "to be of it is as at by we he or so no an if up us am my do " * 5),
        ("gopher_long_words", "counterrevolutionaries " * 60),
        ("gopher_hashes", PROSE + " #x" * 12),
        ("gopher_ellipses", PROSE + " so…" * 12),
        ("gopher_bullets", "\n".join(f"- {word} and the rest" for word in PROSE.split())),
        (
            "gopher_ellipsis_lines",
            "\n".join(f"{PROSE[i : i + 40]}..." for i in range(0, 240, 40)) + "\n" + PROSE,
        ),
        ("gopher_alphabetic", PROSE + " 12345" * 40),
        ("gopher_stop_words", WORD * 60),
        (None, PROSE),
    ],
)
def test_a_text_that_breaks_a_rule_is_dropped_with_its_name(reason: str | None, text: str) -> None:
    loose = GopherQuality(max_mean_word=14) if reason == "gopher_stop_words" else GopherQuality()
    assert reasons(loose, [text]) == [reason]


def test_the_value_that_broke_the_rule_is_told() -> None:
    """Fifty times "a" has 50 words of one character."""
    (outcome,) = GopherQuality()(batch_of(["a " * 50]))
    assert outcome == Drop("gopher_short_words", 1.0)


def test_signs_are_no_words() -> None:
    """49 words and 100 stops are 49 words."""
    assert reasons(GopherQuality(), ["the " * 49 + ". " * 100]) == ["gopher_few_words"]


def sentences(count: int) -> list[str]:
    """Sentences that share no two words in a row."""
    return [f"A{i} tells b{i} something c{i} about d{i}." for i in range(count)]


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("empty", ""),
        ("gopher_paragraphs", "\n\n".join([*sentences(6), *["No."] * 6])),
        ("gopher_paragraph_characters", "\n\n".join([*sentences(6), PROSE, PROSE])),
        ("gopher_lines", "\n".join([*sentences(6), *["No."] * 6])),
        ("gopher_line_characters", "\n".join([*sentences(6), PROSE, PROSE])),
        ("gopher_top_2_gram", " ".join(f"very good w{i}" for i in range(60))),
        ("gopher_top_3_gram", " ".join(f"i am well {'x' * 13} word{i}" for i in range(60))),
        ("gopher_repeated_5_grams", " ".join([*sentences(10), *sentences(2), *sentences(2)])),
        (None, PROSE),
        (None, "\n".join(sentences(12))),
    ],
)
def test_repetition_is_dropped_with_its_kind(reason: str | None, text: str) -> None:
    assert reasons(GopherRepetition(), [text]) == [reason]


@pytest.mark.parametrize("n", [6, 7, 8, 9, 10])
def test_longer_n_grams_have_limits_of_their_own(n: int) -> None:
    """A passage of n words that comes twice is a repeated n-gram; with the other limits off, only n tells."""
    passage = " ".join(f"planted{i}" for i in range(n))
    text = " ".join([*sentences(3), passage, *sentences(6)[3:], passage])
    limits = dict.fromkeys(range(5, 11), 1.0) | {n: 0.05}
    assert reasons(GopherRepetition(max_top={}, max_repeated=limits), [text]) == [
        f"gopher_repeated_{n}_grams"
    ]


def test_thresholds_travel_to_other_processes() -> None:
    for step in (GopherQuality(min_words=7), GopherRepetition(max_top={2: 0.5})):
        assert pickle.loads(pickle.dumps(step)) == step
