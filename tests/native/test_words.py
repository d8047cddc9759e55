"""The word rule: spaCy's tokens for English by example, and what holds for any text."""

from __future__ import annotations

import functools
import unicodedata
from ctypes import c_int64, c_uint64
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.native import load, pointer
from luban.native.unicode import LETTER, PUNCTUATION, SPACE, UPPER

EXAMPLES = """
Mr. Smith doesn't pay $5.50, does he?    | Mr. Smith does n't pay $ 5.50 , does he ?
(It's "fine", isn't it?)                 | ( It 's " fine " , is n't it ? )
state-of-the-art e-mail, well-known.     | state - of - the - art e - mail , well - known .
See http://a.example.com/x?y=1, or       | See http://a.example.com/x?y=1 , or
write to me@example.org.                 | write to me@example.org .
os.path.join(a, b) and x.y()             | os.path.join(a , b ) and x.y ( )
10km at 5%, 3.14 or 1,000!               | 10 km at 5 % , 3.14 or 1,000 !
wait... what??? Well…                    | wait ... what ? ? ? Well …
e.g. the U.S. and Ph.D. students, i.e.   | e.g. the U.S. and Ph.D. students , i.e.
“Typeset,” said John’s aunt.             | “ Typeset , ” said John ’s aunt .
we're, I'd've and cannot, gonna          | we 're , I 'd 've and can not , gon na
a/b x=y 10-20 pre--post a,b              | a / b x = y 10 - 20 pre -- post a , b
at 9am :) [1] <b>bold</b> C++            | at 9 am :) [ 1 ] < b > bold</b > C++
naïve Straße, Привет! «oui»              | naïve Straße , Привет ! « oui »
"""
"""Left: text; right: its tokens in spacy.blank("en") 3.8."""


@functools.cache
def library() -> tuple[object, object]:
    built = load(Path(__file__).with_name("words.cpp"))
    for name in ("words_quick", "words_careful"):
        getattr(built, name).restype = c_int64
    built.hash_of.restype = built.key_of.restype = c_uint64
    return built.words_quick, built.words_careful


def rows_of(text: str, *, careful: bool = False) -> np.ndarray:
    """Begin, end, characters and classes of each word."""
    buffer = np.frombuffer(text.encode("utf-8") + b" ", np.uint8)
    rows = np.zeros((len(buffer), 4), np.int64)
    function = library()[careful]
    assert callable(function)
    return rows[: function(pointer(buffer, np.uint8), c_int64(len(buffer) - 1), pointer(rows, np.int64))]


def words_of(text: str, *, careful: bool = False) -> list[str]:
    """The words as strings; the test of other kernels count them too."""
    encoded = text.encode("utf-8")
    return [encoded[begin:end].decode("utf-8") for begin, end, *_ in rows_of(text, careful=careful)]


@pytest.mark.parametrize("line", EXAMPLES.strip().splitlines())
def test_english_words_are_those_of_spacy(line: str) -> None:
    text, _, tokens = line.partition("|")
    assert words_of(text.rstrip()) == tokens.split()


def test_each_ideograph_is_a_word_and_so_is_each_sign_beside_it() -> None:
    assert words_of("用Python 3写“代码”。") == ["用", "Python", "3", "写", "“", "代", "码", "”", "。"]
    assert words_of("ひらがな、カナ") == [*"ひらがな、カナ"]


PIECES = st.sampled_from(
    [
        *(
            "word",
            "A",
            "I",
            "don't",
            "it's",
            "e.g.",
            "Mr.",
            "id",
            "cannot",
            "http://",
            "a.com",
            "é",
            "汉",
            "。",
        ),
        *(
            "42",
            "3.14",
            "5%",
            "km",
            "$",
            "...",
            "--",
            ":)",
            "8)",
            "’",
            "“",
            "—",
            "\n",
            "\t",
            "\u00a0",
            "\u2028",
        ),
        *",.:;!?()[]{}\"'-/_#@+=",
    ]
)
TEXTS = st.one_of(st.text(), st.lists(st.one_of(PIECES, st.just(" ")), max_size=12).map("".join))


@settings(deadline=None)
@given(TEXTS)
def test_the_words_are_the_text_without_its_white_space(text: str) -> None:
    assert "".join(words_of(text)) == "".join(text.split())


@settings(deadline=None)
@given(TEXTS)
def test_the_quick_way_gives_the_same_words_as_the_careful_one(text: str) -> None:
    assert np.array_equal(rows_of(text), rows_of(text, careful=True))


@settings(deadline=None)
@given(TEXTS)
def test_a_word_knows_its_characters_and_their_classes(text: str) -> None:
    for word, row in zip(words_of(text), rows_of(text), strict=True):
        assert row[2] == len(word)
        kinds = {unicodedata.category(character)[0] for character in word}
        assert bool(row[3] & LETTER) == ("L" in kinds)
        assert bool(row[3] & PUNCTUATION) == ("P" in kinds)
        assert bool(row[3] & UPPER) == any(character.isupper() for character in word)
        assert not row[3] & SPACE


@settings(deadline=None)
@given(st.text(), st.text(), st.sampled_from([" ", "\n", "\t\t", "\u3000"]))
def test_what_stands_behind_white_space_does_not_matter(left: str, right: str, gap: str) -> None:
    assert words_of(left + gap + right) == words_of(left) + words_of(right)


def test_time_grows_with_the_text_and_not_faster() -> None:
    """Chunks of a megabyte that would take hours if a rule looked back over all of it each time."""
    for chunk in (
        "a" * 10**6,
        ")" * 10**6,
        "." * 10**6,
        "a-" * 500_000,
        "@" * 10**6,
        "a@" * 500_000,
        "9." * 500_000,
    ):
        assert sum(rows_of(chunk)[:, 2]) == 10**6


def test_the_hash_of_a_word_ignores_case() -> None:
    library()
    hash_of = load(Path(__file__).with_name("words.cpp")).hash_of
    hashes = []
    for word in ("Straße", "STRAßE", "strasse"):
        buffer = np.frombuffer(word.encode(), np.uint8)
        hashes.append(hash_of(pointer(buffer, np.uint8), c_int64(len(buffer))))
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("size", range(20))
def test_the_hash_of_bytes_is_that_of_whole_blocks_and_what_is_left(size: int) -> None:
    """Saved language models hold these numbers."""

    def mix(one: int, two: int) -> int:
        return (one * two ^ one * two >> 64) % 2**64

    library()
    text = bytes(range(200, 200 + size))
    state = 0x9E3779B97F4A7C15 ^ size * 0xA0761D6478BD642F % 2**64
    blocks = [int.from_bytes(text[at : at + 8], "little") for at in range(0, size, 8)]
    left = blocks.pop() if size % 8 else 0
    for block in blocks:
        state = mix(state ^ block, 0xE7037ED1A0B428DB)
    expected = mix(state ^ left ^ 0x8EBC6AF09C88C6E3, 0x589965CC75374CC3)
    buffer = np.frombuffer(text or b" ", np.uint8)
    assert (
        load(Path(__file__).with_name("words.cpp")).key_of(pointer(buffer, np.uint8), c_int64(size))
        == expected
    )
