"""The table of counts against the same counts in plain Python."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import fields

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.data.step import Packed
from luban.data.text.statistics import SHORT_LINE, Statistics, statistics_of
from luban.data.text.words import Words
from tests.data.steps.batches import batch_of
from tests.native.test_words import words_of

STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}
LINES = st.sampled_from(
    [
        "The end.",
        "- one",
        "• two",
        "  - three",
        "more...",
        "and so on …",
        "",
        " ",
        "x" * 31,
        "#a #b",
        "同一行。",
        "THE 42",
        "«»",
    ]
)
TEXTS = st.one_of(
    st.lists(LINES, max_size=12).map("\n".join),
    st.text(alphabet=st.sampled_from("ab Z9.#-•…。\n\t é汉«’1１!"), max_size=40),
    st.text(),
)


def duplicates(pieces: list[str]) -> tuple[int, int]:
    """How many came before, and their characters."""
    seen: set[str] = set()
    again = [piece for piece in pieces if piece in seen or seen.add(piece)]
    return len(again), sum(map(len, again))


def expected(text: str) -> dict[str, int]:
    """Every column from its own words: str methods, regular expressions and Unicode categories."""
    kinds = [unicodedata.category(character)[0] for character in text]
    lines = text.split("\n")[: -1 if text.endswith("\n") or not text else None]
    filled = [line for line in text.split("\n") if line.strip()]
    pieces = re.split("\n+", text) if text else []
    paragraphs = re.split("\n{2,}", text.strip())
    words = words_of(text)
    plain = [word for word in words if any(not is_mere_sign(character) for character in word)]
    special = [kind in "PSN" or character.isspace() for kind, character in zip(kinds, text, strict=True)]
    solid = [
        kind not in "PS" and not character.isspace() for kind, character in zip(kinds, text, strict=True)
    ]
    return {
        "characters": len(text),
        "letters": kinds.count("L"),
        "uppers": sum(character.isupper() for character in text),
        "digits": kinds.count("N"),
        "specials": sum(special),
        "solid": sum(solid),
        "hashes": text.count("#"),
        "ellipses": text.count("...") + text.count("…"),
        "newlines": text.count("\n"),
        "lines": len(lines),
        "bullet_lines": sum(line.lstrip().startswith(("•", "-")) for line in filled),
        "ellipsis_lines": sum(line.rstrip().endswith(("...", "…")) for line in filled),
        "filled_lines": len(filled),
        "short_lines": sum(len(line) <= SHORT_LINE for line in filled),
        "longest_line": max(map(len, lines), default=0),
        "pieces": len(pieces),
        "repeated_pieces": duplicates(pieces)[0],
        "repeated_piece_characters": duplicates(pieces)[1],
        "repeated_filled_characters": duplicates(filled)[1],
        "paragraphs": len(paragraphs),
        "repeated_paragraphs": duplicates(paragraphs)[0],
        "repeated_paragraph_characters": duplicates(paragraphs)[1],
        "words": len(words),
        "plain_words": len(plain),
        "plain_word_characters": sum(map(len, plain)),
        "alphabetic_words": sum(any(character.isalpha() for character in word) for word in words),
        "stop_words": len(STOP_WORDS & set(words)),
    }


def is_mere_sign(character: str) -> bool:
    """What datatrove counts as no word, for the signs that the strategies above make and ASCII."""
    if unicodedata.category(character)[0] in "LN":
        return False
    return (
        ord(character) < 0xA0
        or character in "«»“”„’–—…、。〈〉《》「」【】！％（），．：；？～´∶━►"
        or is_terminal(character)
    )


def is_terminal(character: str) -> bool:
    one = counted([character])
    return bool(one.terminal_lines[0])


def counted(texts: Sequence[str]) -> Statistics:
    packed = Packed.of(texts)
    return statistics_of(packed, Words.of(packed))


@settings(deadline=None)
@given(st.lists(TEXTS, max_size=4))
def test_each_column_is_what_plain_python_counts(texts: list[str]) -> None:
    table = counted(texts)
    for index, text in enumerate(texts):
        for name, value in expected(text).items():
            assert getattr(table, name)[index] == value, (name, text)


def test_a_small_text_by_hand() -> None:
    text = "The cat sat.\n\n- One #tag...\nThe cat sat.\n\n漢字。\n"
    table = counted([text])
    by_hand = {"characters": 46, "ideographs": 2, "uppers": 3, "hashes": 1, "ellipses": 1, "newlines": 6, "lines": 6,
               "bullet_lines": 1, "ellipsis_lines": 1, "filled_lines": 4, "terminal_lines": 4, "short_lines": 4,
               "pieces": 5, "repeated_pieces": 1, "repeated_piece_characters": 12, "paragraphs": 3,
               "words": 16, "plain_words": 10, "alphabetic_words": 10, "stop_words": 0}  # fmt: skip
    assert {name: int(getattr(table, name)[0]) for name in by_hand} == by_hand


def test_sentences_end_in_any_script() -> None:
    ends = counted(["a.", "a!", "a?", "好。", "好！", "क।", "؟", 'a."', "a,", "a…"])
    assert ends.terminal_lines.tolist() == [1, 1, 1, 1, 1, 1, 1, 0, 0, 0]


def test_a_batch_counts_once() -> None:
    batch = batch_of(["one text", "another"])
    assert batch.statistics is batch.statistics
    assert batch.statistics.words.tolist() == [2, 1]


def test_no_text_gives_an_empty_table() -> None:
    table = counted([])
    assert all(getattr(table, field.name).shape == (0,) for field in fields(Statistics))
    assert counted([""]).paragraphs.tolist() == [1]


def test_rows_do_not_depend_on_their_neighbours() -> None:
    texts = ["One line.\nOne line.\n", "Other text", "One line.\n"]
    together = counted(texts)
    alone = [counted([text]) for text in texts]
    for field in fields(Statistics):
        assert np.array_equal(getattr(together, field.name), [getattr(one, field.name)[0] for one in alone])
