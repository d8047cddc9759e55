"""Words to ids: in the order they come, normalised as said, END after each line."""

from __future__ import annotations

import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.data.step import Packed
from luban.ngram.counts import END, FIRST, UNKNOWN
from luban.ngram.vocabulary import Vocabulary

TEXT = st.text(
    st.one_of(st.characters(exclude_categories=("Cs",)), st.sampled_from("aAbB1 \n\tÄß鲁İ")), max_size=120
)


def spelled(vocabulary: Vocabulary, ids: np.ndarray) -> list[str]:
    letters, ends = vocabulary.spelling()
    begins = [0, *ends[:-1]]
    return [letters[begins[id_] : ends[id_]].tobytes().decode() for id_ in ids]


def lower(text: str) -> str:
    """Character by character, where that is one character; ASCII digits as 0."""
    return re.sub("[0-9]", "0", "".join(c.lower() if len(c.lower()) == 1 else c for c in text))


@settings(max_examples=150, deadline=None)
@given(st.lists(TEXT, max_size=4))
def test_words_between_spaces_are_those_of_str_split(texts: list[str]) -> None:
    for normalise in (False, True):
        vocabulary = Vocabulary()
        ids = vocabulary.encode(Packed.of(texts), words="spaces", normalise=normalise)
        expected: list[str] = []
        for line in (line for text in texts for line in text.split("\n")):
            words = (lower(line) if normalise else line).split()
            expected += [
                *("<unk>" if len(w) == 1 and w < " " else w for w in words),
                *(["</s>"] if words else []),
            ]
        assert spelled(vocabulary, ids) == expected


def test_ids_follow_the_order_of_first_occurrence() -> None:
    vocabulary = Vocabulary()
    first = vocabulary.encode(Packed.of(["b a b\n\na c"]), words="luban", normalise=True)
    assert first.tolist() == [FIRST, FIRST + 1, FIRST, END, FIRST + 1, FIRST + 2, END]
    assert vocabulary.encode(Packed.of(["C"]), words="luban", normalise=True).tolist() == [FIRST + 2, END]
    assert len(vocabulary) == 3


def test_words_beyond_the_last_id_are_unknown() -> None:
    vocabulary = Vocabulary(largest=FIRST + 1)
    ids = vocabulary.encode(Packed.of(["a b c a"]), words="luban", normalise=True)
    assert ids.tolist() == [FIRST, FIRST + 1, UNKNOWN, FIRST, END]


def test_many_words_keep_their_ids() -> None:
    words = [f"w{number}x" for number in range(70_000)]
    vocabulary = Vocabulary()
    text = Packed.of([" ".join(words)])
    first = vocabulary.encode(text, words="spaces", normalise=False)
    assert np.array_equal(first[:-1], np.arange(FIRST, FIRST + len(words)))
    assert np.array_equal(vocabulary.encode(text, words="spaces", normalise=False), first)
