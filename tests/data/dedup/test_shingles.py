from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.data.dedup.shingles import shingles
from luban.data.dedup.simhash import fingerprints
from luban.data.step import Packed

WORDS = st.lists(st.text("abcdefghijklmnopqrstuvwxyzäéйह09", min_size=1, max_size=20), max_size=30)


def of(*texts: str, ngram: int = 3) -> list[list[int]]:
    items, counts = shingles(Packed.of(texts), ngram)
    ends = np.cumsum(counts)
    return [items[end - count : end].tolist() for end, count in zip(ends, counts, strict=True)]


@settings(deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=4), st.integers(1, 6))
def test_a_shingle_stands_for_its_words_and_nothing_else(texts: list[list[str]], ngram: int) -> None:
    meaning: dict[int, tuple[str, ...]] = {}
    for words, found in zip(texts, of(*map(" ".join, texts), ngram=ngram), strict=True):
        runs = [tuple(words[i : i + ngram]) for i in range(max(len(words) - ngram + 1, bool(words)))]
        assert len(found) == len(runs)
        for shingle, run in zip(found, runs, strict=True):
            assert meaning.setdefault(shingle, run) == run
    assert len(set(meaning.values())) == len(meaning), "the same words gave two values"


@settings(deadline=None)
@given(st.lists(st.text(max_size=60), max_size=5))
def test_any_text_is_read_and_alone_gives_what_it_gives_among_others(texts: list[str]) -> None:
    assert of(*texts) == [shingle for text in texts for shingle in of(text)]


def test_case_and_signs_do_not_count() -> None:
    assert of("The QUICK brown fox, over ÄRA!") == of('the quick "brown" fox... over ära')
    assert of("the quick brown fox over ära") != of("the quick brown fox over ara")


def test_every_sign_parts_words() -> None:
    words = "os path join well known don t c 3 14"
    assert of("os.path_join well-known don't c++ 3.14") == of(words)
    assert len(of(words)[0]) == len(words.split()) - 2


def test_a_mark_is_a_part_of_its_word() -> None:
    assert [len(found) for found in of("हिन्दी ภาษาไทยนี้ cafe\u0301", ngram=1)] == [3]


def test_every_ideograph_is_a_word() -> None:
    assert [len(found) for found in of("起初神创造天地。")] == [5]


def test_the_last_words_of_a_window_matter_as_much_as_the_first() -> None:
    base = of(" ".join("abcdefghijklm"), ngram=13)
    for place in range(13):
        changed = " ".join("x" if i == place else letter for i, letter in enumerate("abcdefghijklm"))
        assert of(changed, ngram=13) != base


def test_a_fingerprint_is_the_majority_of_its_shingles_bits() -> None:
    texts = ["one two three four five six seven", "one two three", "", "一二三四五"]
    items, counts = shingles(Packed.of(texts), 3)
    singles = [int(fingerprints(items[i : i + 1], np.array([1]))[0]) for i in range(len(items))]
    at = 0
    for count, found in zip(counts.tolist(), fingerprints(items, counts).tolist(), strict=True):
        own = singles[at : at + count]
        votes = [sum(single >> bit & 1 for single in own) for bit in range(64)]
        assert found == sum(1 << bit for bit in range(64) if 2 * votes[bit] > count)
        at += count
