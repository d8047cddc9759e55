"""Counts beside those of a dictionary, whatever way the sorting takes."""

from __future__ import annotations

from collections import Counter as Tally
from pathlib import Path

import numpy as np
import pytest

from luban.ngram.counts import END, FIRST, LARGEST, START, Counter


def plain(ids: np.ndarray, order: int) -> Tally[tuple[int, ...]]:
    """The n-grams that end at each id, first word first; shorter ones at the start of a sentence."""
    found: Tally[tuple[int, ...]] = Tally()
    sentence = [START]
    for id_ in ids.tolist():
        sentence.append(id_)
        found[tuple(sentence[-order:])] += 1
        if id_ == END:
            sentence = [START]
    return found


def sentences(words: np.ndarray, *, length: int) -> np.ndarray:
    """The words with `END` at every `length`-th place and at the end."""
    ids = words.astype(np.uint32)
    ids[length - 1 :: length] = END
    ids[-1] = END
    return ids


def drawn(count: int, *, largest: int, common: float) -> np.ndarray:
    """Ids up to `largest`; a share of them, `common`, is one and the same word."""
    generator = np.random.default_rng(7)
    ids = generator.integers(FIRST, largest, size=count, endpoint=True)
    return sentences(np.where(generator.random(count) < common, FIRST, ids), length=23)


@pytest.mark.parametrize("order", [1, 3, 5])
@pytest.mark.parametrize(
    ("count", "largest", "common"),
    [
        (300, 40, 0.0),  # few of each: compared
        (20_000, 60, 0.4),  # a word's n-grams fit the cache: from the last digit on
        (60_000, 3000, 0.8),  # they do not: parted by the word before first
        (20_000, LARGEST, 0.1),  # ids too large to part by whole words
    ],
)
def test_n_grams_are_counted_as_a_dictionary_counts_them(
    count: int, largest: int, common: float, order: int, tmp_path: Path
) -> None:
    ids = drawn(count, largest=largest, common=common)
    counter = Counter(order, folder=tmp_path)
    counter.add(ids)
    counts = counter.counts()
    highest = counts.read(order, limit=0)
    found = map(tuple, counts.ids(order, highest.kept).tolist())
    whole = {gram: number for gram, number in plain(ids, order).items() if len(gram) == order}
    # First words compare last, so reversed n-grams are in order.
    assert list(zip(found, highest.adjusted.tolist(), strict=True)) == sorted(
        whole.items(), key=lambda item: item[0][::-1]
    )


def test_each_n_gram_knows_its_suffix(tmp_path: Path) -> None:
    counter = Counter(3, folder=tmp_path)
    counter.add(drawn(2000, largest=30, common=0.3))
    counts = counter.counts()
    longer, shorter = counts.read(3, limit=0), counts.read(2, limit=0)
    suffixes = counts.ids(2, shorter.kept)[longer.suffixes]
    assert np.array_equal(counts.ids(3, longer.kept)[:, 1:], suffixes)


def test_an_n_gram_that_occurs_as_often_as_the_limit_is_not_kept(tmp_path: Path) -> None:
    a, b, c = FIRST, FIRST + 1, FIRST + 2
    counter = Counter(2, folder=tmp_path)
    counter.add(np.array([a, b, END, a, b, END, a, c, END], np.uint32))
    counts = counter.counts()
    kept = counts.read(2, limit=1).kept
    # <s> a three times, a b and b </s> twice; a c and c </s> once.
    assert {tuple(ids) for ids in counts.ids(2, kept).tolist()} == {(START, a), (a, b), (b, END)}
