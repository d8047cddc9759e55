"""Probabilities by hand, by definition in plain Python, and as lmplz gives them."""

from __future__ import annotations

import gzip
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import luban
from luban.data.step import Packed
from luban.errors import ConfigError
from luban.ngram.kneser_ney import FALLBACK, check_prune, discounts_of
from tests.ngram.models import train
from tests.ngram.plain import START, UNKNOWN, PlainModel

LINES = st.lists(
    st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), min_size=1, max_size=8), min_size=1, max_size=30
)
WEB = Path(luban.__file__).parent / "fetch" / "web.tsv.gz"


def bible(book: str) -> list[str]:
    """The verses of a book, letters and spaces only, in lower case."""
    with gzip.open(WEB, "rt", encoding="utf-8") as file:
        lines = [line for line in file if line.startswith(book)]
    texts = ["".join(c.lower() if c.isalpha() else " " for c in line.split("\t")[-1]) for line in lines]
    return [" ".join(text.split()) for text in texts]


def test_a_bigram_model_is_as_derived_by_hand() -> None:
    # "a b" and "a c": too few counts of counts, so both orders take 0.5 off a count of 1, 1.0 off a count of 2.
    # Continuations: a follows only <s>, b and c only a, </s> follows b and c; five words with <unk>.
    # Order 1: counts a 1, b 1, c 1, </s> 2, in all 5; taken 0.5 * 3 + 1.0 = 2.5; each gets 2.5 / 5 / 5 = 0.1.
    found = train(["a b", "a c"], order=2).spelled()
    assert 10 ** found[("a",)][0] == pytest.approx(0.5 / 5 + 0.1)
    assert 10 ** found[("</s>",)][0] == pytest.approx(1.0 / 5 + 0.1)
    assert 10 ** found[("<unk>",)][0] == pytest.approx(0.1)
    # After <s>, a came twice: (2 - 1) / 2 + (1 / 2) * p(a). After a, b once of two: 0.5 / 2 + (1 / 2) * p(b).
    assert 10 ** found[("<s>", "a")][0] == pytest.approx(0.5 + 0.5 * 0.2)
    assert 10 ** found[("a", "b")][0] == pytest.approx(0.25 + 0.5 * 0.2)
    assert 10 ** found[("b", "</s>")][0] == pytest.approx(0.5 + 0.5 * 0.3)
    assert 10 ** found[("a",)][1] == pytest.approx(0.5)
    assert found[("<s>",)] == (-99.0, pytest.approx(math.log10(0.5)))


def test_discounts_follow_from_counts_of_counts() -> None:
    # n1 = 8, n2 = 4, n3 = 2, n4 = 1: y = 8 / 16; 1 - 2 y / 2 = 0.5, 2 - 3 y / 2 = 1.25, 3 - 4 y / 2 = 2.
    adjusted = np.array([1] * 8 + [2] * 4 + [3] * 2 + [4])
    assert discounts_of(adjusted).values == (0.5, 1.25, 2.0)
    assert discounts_of(adjusted).estimated


def test_discounts_that_cannot_be_estimated_are_said_to_be_assumed() -> None:
    assert discounts_of(np.array([1, 1, 2])).values == FALLBACK
    assert not discounts_of(np.array([1, 1, 2])).estimated


@settings(max_examples=60, deadline=None)
@given(LINES, st.integers(1, 5), st.sampled_from([(0,), (0, 0, 1), (0, 1)]))
def test_a_model_is_what_the_definition_says(
    lines: list[list[str]], order: int, prune: tuple[int, ...]
) -> None:
    trained = train([" ".join(line) for line in lines], order=order, prune=prune)
    limits = [*prune, *[prune[-1]] * order][:order]
    plain = PlainModel(lines, order, limits, [each.values for each in trained.discounts])
    found = trained.spelled()
    assert set(found) - {(START,)} == set(plain.p)
    for gram, (logp, backoff) in found.items():
        if gram != (START,):
            assert 10**logp == pytest.approx(plain.p[gram], rel=1e-5)
        assert 10**backoff == pytest.approx(plain.backoff[gram], rel=1e-5)


@settings(max_examples=40, deadline=None)
@given(LINES, st.sampled_from([(0,), (0, 0, 1), (0, 2)]))
def test_the_probabilities_after_any_context_sum_to_one(
    lines: list[list[str]], prune: tuple[int, ...]
) -> None:
    found = train([" ".join(line) for line in lines], order=3, prune=prune).spelled()
    words = [gram[0] for gram in found if len(gram) == 1 and gram != (START,)]
    backoff: defaultdict[tuple[str, ...], float] = defaultdict(lambda: 1.0)
    backoff.update({gram: 10**weight for gram, (_, weight) in found.items()})

    def p(history: tuple[str, ...], word: str) -> float:
        if (*history, word) in found:
            return 10 ** found[(*history, word)][0]
        return backoff[history] * p(history[1:], word)

    histories = [(), (START,), (START, "a"), ("a",), ("a", "b"), ("b", "b"), (UNKNOWN, "a"), ("c", UNKNOWN)]
    for history in histories:
        assert sum(p(history, word) for word in words) == pytest.approx(1, rel=1e-5)


def test_a_word_in_the_text_called_unknown_counts_as_unknown() -> None:
    found = train(["a \x01 b", "a b"], order=2).spelled()
    assert ("a", UNKNOWN) in found
    assert (UNKNOWN, "b") in found


@pytest.mark.parametrize("memory", [1, 1 << 17])
def test_memory_changes_nothing_but_where_the_counts_lie(memory: int) -> None:
    verses = bible("James") + bible("Ruth")
    whole, chunked = train(verses, order=4), train(verses, order=4, memory=memory, pack=40)
    for a, b in zip(whole.grams, chunked.grams, strict=True):
        assert all(
            np.array_equal(*pair) for pair in ((a.ids, b.ids), (a.logp, b.logp), (a.backoff, b.backoff))
        )


@pytest.mark.parametrize(
    ("order", "prune", "sizes", "last_discounts", "total", "some"),
    [
        (
            3,
            (0,),
            [1677, 7961, 11874],
            (0.848752, 1.37704, 1.78432),
            -6284.671338,
            {
                "<unk>": (-3.9209383, 0),
                "kingdom of": (-1.5543232, -0.07121933),
                "the kingdom of": (-0.7571297, 0),
            },
        ),
        (
            4,
            (0, 0, 1),
            [1677, 7961, 1369, 628],
            (0.925655, 1.49355, 1.87673),
            -6261.740923,
            {
                "</s>": (-1.3551486, 0),
                "kingdom of": (-1.5543232, 0),
                "<s> jesus said": (-0.47533607, -0.49071532),
            },
        ),
    ],
)
def test_a_model_is_what_lmplz_makes_of_the_same_text(
    order: int,
    prune: tuple[int, ...],
    sizes: list[int],
    last_discounts: tuple[float, ...],
    total: float,
    some: dict[str, tuple[float, float]],
) -> None:
    # The figures are those of KenLM's lmplz (its newest public state) trained on Mark, scoring Ruth.
    trained = train(bible("Mark"), order=order, prune=prune)
    assert [len(each.logp) for each in trained.grams] == sizes
    assert trained.discounts[-1].values == pytest.approx(last_discounts, abs=1e-5)
    found = trained.spelled()
    for gram, numbers in some.items():
        assert found[tuple(gram.split())] == pytest.approx(numbers, abs=2e-6)
    scores = trained.model.score(Packed.of(bible("Ruth")))
    assert (scores.words.sum(), scores.unknown.sum()) == (2566, 371)
    assert scores.logp.sum() == pytest.approx(total, abs=1e-3)


def test_pruning_thresholds_that_make_no_sense_are_refused() -> None:
    for prune in ((1,), (0, 2, 1)):
        with pytest.raises(ConfigError, match="prune"):
            check_prune(prune, 3)
