"""Repetition by n-grams against counting strings in plain Python, as datatrove and ROOTS do."""

from __future__ import annotations

from collections import Counter
from math import isqrt

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.data.step import Packed
from luban.data.text.repetition import gopher_repetition, roots_repetition
from luban.data.text.words import Words
from tests.native.test_words import words_of

TEXTS = st.lists(st.sampled_from(["a", "bb", "A", "ccc", "汉字", ".", "\n"]), max_size=40).map(" ".join)


def top(words: list[str], n: int) -> int:
    grams = [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]
    if not grams:
        return 0
    gram, times = Counter(grams).most_common(1)[0]
    return len(gram) * times


def repeated(words: list[str], n: int) -> int:
    seen: set[tuple[str, ...]] = set()
    characters = at = 0
    while at + n <= len(words):
        gram = tuple(words[at : at + n])
        characters += len("".join(gram)) if gram in seen else 0
        at += n if gram in seen else 1
        seen.add(gram)
    return characters


def top_share(text: str, n: int) -> float:
    times = Counter(text[i : i + n] for i in range(len(text) - n + 1))
    often = sorted((count for count in times.values() if count > 1), reverse=True)
    return sum(often[: isqrt(len(times))]) / max(1, times.total())


def repeated_share(text: str, n: int) -> float:
    words = [word.lower() for word in words_of(text) if any(map(str.isalnum, word))]
    times = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    return sum(count for count in times.values() if count > 1) / max(1, times.total())


@settings(deadline=None)
@given(st.lists(TEXTS, max_size=4))
def test_gopher_measures_are_those_of_counting_strings(texts: list[str]) -> None:
    tops, repeats = gopher_repetition(Words.of(Packed.of(texts)), (2, 3, 4), (1, 2, 5))
    for index, text in enumerate(texts):
        words = words_of(text)
        assert tops[index].tolist() == [top(words, n) for n in (2, 3, 4)]
        assert repeats[index].tolist() == [repeated(words, n) for n in (1, 2, 5)]


@settings(deadline=None)
@given(st.lists(TEXTS, max_size=4), st.integers(1, 4), st.integers(1, 4))
def test_roots_measures_are_those_of_counting_strings(
    texts: list[str], character_n: int, word_n: int
) -> None:
    count = len(texts)
    characters, words = roots_repetition(
        Packed.of(texts), np.full(count, character_n, np.int64), np.full(count, word_n, np.int64)
    )
    assert np.allclose(characters, [top_share(text, character_n) for text in texts])
    assert np.allclose(words, [repeated_share(text, word_n) for text in texts])


def test_a_small_text_by_hand() -> None:
    """Of "a b a b a b c", "a b" comes three times (3 characters with its space), "b a" twice; read from the left,
    the pairs "a b" and "b a" are new, then "a b" (2 characters) and "a b" once more;
    "b c" is not reached."""
    tops, repeats = gopher_repetition(Words.of(Packed.of(["a b a b a b c"])), (2,), (2,))
    assert tops.tolist() == [[9]]
    assert repeats.tolist() == [[4]]


def test_the_share_of_a_long_text_is_counted_in_slices() -> None:
    """More than 2**22 n-grams: 10 different ones in a circle, of which the floor(sqrt(10)) = 3 most frequent count."""
    text = "0123456789" * 500_000
    shares, _ = roots_repetition(Packed.of([text]), np.array([3]), np.array([5]))
    assert abs(shares[0] - 0.3) < 1e-6
