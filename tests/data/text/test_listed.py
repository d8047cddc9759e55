"""Counting words that stand in lists."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from luban.data.step import Packed
from luban.data.text.listed import count_listed
from tests.native.test_words import words_of


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["the", "The", "cat", "of", "rose", ".", "42", "\n"]), max_size=20).map(" ".join)
)
def test_each_list_is_counted_without_regard_to_case(text: str) -> None:
    lists = [{"the", "of"}, {"cat", "of"}]
    words = [word.lower() for word in words_of(text) if word.isalnum()]
    total, counts = count_listed(Packed.of([text]), lists)
    assert total[0] == len(words)
    assert counts[0].tolist() == [sum(word in chosen for word in words) for chosen in lists]


def test_ideographs_are_also_found_joined() -> None:
    texts = ["他们没有说", "没 有", "因为x所以", "以x没有"]
    total, counts = count_listed(Packed.of(texts), [{"没有", "他们", "因为", "所以", "们"}])
    assert total.tolist() == [5, 2, 5, 4]
    assert counts[:, 0].tolist() == [3, 0, 2, 1]


def test_an_article_is_found_before_its_apostrophe() -> None:
    _, counts = count_listed(Packed.of(["L'homme qu’il aime d'abord"]), [{"l", "qu", "d"}])
    assert counts.tolist() == [[3]]
