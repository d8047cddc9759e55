"""Maximum likelihood, add-k and Katz: numbers by hand, and distributions that sum to 1 after any context."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.errors import ConfigError, DataError
from luban.ngram.backoff import Backoff
from luban.ngram.settings import Estimator, Smoothing
from luban.ngram.smoothing import good_turing
from luban.ngram.tokens import TokenCounter, counter_ids, symbols_of

A, B, C, END = 0, 1, 2, 3
VOCAB, START = 4, 4
ESTIMATORS: tuple[Estimator, ...] = ("kneser-ney", "katz", "add-k", "maximum-likelihood")
TEXT = st.lists(st.integers(0, 5), max_size=12)


def counted(
    texts: Sequence[Sequence[int]], estimator: Estimator, *, order: int, vocab: int = VOCAB, **more: Any
) -> Backoff:
    """The model of `texts`, each of which ends with the last id of the vocabulary."""
    with tempfile.TemporaryDirectory() as folder:
        counter = TokenCounter(order, vocab=vocab, eos=vocab - 1, folder=Path(folder), memory=1)
        counter.add([np.array([*text, vocab - 1], np.uint16) for text in texts])
        return counter.table(Smoothing(estimator=estimator, **more))[0]


def after(table: Backoff, context: Sequence[int]) -> list[float]:
    """The probabilities of all tokens after `context`, which may begin with START."""
    states = table.follow(np.array([context]))[:, -1]
    return np.exp(table.spread(states).astype(np.float64))[0].tolist()


def test_maximum_likelihood_by_hand() -> None:
    # "a b" and "a c a": a three times, b once, c once, two ends.
    table = counted([[A, B], [A, C, A]], "maximum-likelihood", order=2)
    assert after(table, [START]) == pytest.approx([1, 0, 0, 0])
    assert after(table, [A]) == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])
    assert after(table, [START, C]) == pytest.approx([1, 0, 0, 0])
    single = counted([[A, B], [A, C, A]], "maximum-likelihood", order=1)
    assert after(single, [A]) == pytest.approx([3 / 7, 1 / 7, 1 / 7, 2 / 7])


def test_maximum_likelihood_shortens_a_context_that_was_never_seen() -> None:
    table = counted([[A, B], [A, C, A]], "maximum-likelihood", order=3)
    assert after(table, [A, B]) == pytest.approx([0, 0, 0, 1])
    assert after(table, [B, A]) == pytest.approx(after(table, [A]))  # "b a" was not seen


def test_add_k_by_hand() -> None:
    table = counted([[A, B], [A, C, A]], "add-k", order=2, k=0.5)
    # After a, three words of four: (1 + 0.5) / (3 + 4 * 0.5); an unseen one 0.5 / 5.
    assert after(table, [A]) == pytest.approx([0.1, 0.3, 0.3, 0.3])
    assert after(table, [START]) == pytest.approx([2.5 / 4, 0.5 / 4, 0.5 / 4, 0.5 / 4])


def test_add_k_knows_nothing_after_a_context_that_was_never_seen() -> None:
    table = counted([[A, B], [A, C, A]], "add-k", order=3, k=1.0)
    assert after(table, [B, A]) == pytest.approx([1 / 4] * 4)
    assert after(table, [A, C]) == pytest.approx([2 / 5, 1 / 5, 1 / 5, 1 / 5])


def test_good_turing_keeps_what_its_formula_says() -> None:
    # n1 = 10, n2 = 4, n3 = 1: with k = 2, m = 3 / 10; 1 counts 8/10: (0.8 - 0.3) / 0.7; 2 counts 3/4 / 2: 0.375.
    ratios = good_turing(np.array([1] * 10 + [2] * 4 + [3]))
    assert ratios.estimated
    assert ratios.values == pytest.approx((0.5 / 0.7, 0.075 / 0.7))


def test_good_turing_without_enough_counts_says_so() -> None:
    ratios = good_turing(np.array([1, 1, 4]))
    assert not ratios.estimated
    assert ratios.values[:2] == (0.5, 0.75)


def test_katz_by_hand() -> None:
    # Too few counts: 1 keeps 0.5, 2 keeps 1.5, 3 keeps 2.5. Single words: a 3, b 1, c 1, ends 2, all of them seen, so
    # they keep 3/7, 1/7, 1/7, 2/7. After a: b, c and end once each of 3; a gets the 1.5 / 3 they lose.
    table = counted([[A, B], [A, C, A]], "katz", order=2)
    assert after(table, [A]) == pytest.approx([0.5, 0.5 / 3, 0.5 / 3, 0.5 / 3])
    # After b only the end, once: it keeps 0.5; the others share 0.5 as 3 : 1 : 1.
    assert after(table, [B]) == pytest.approx([0.3, 0.1, 0.1, 0.5])


def test_katz_leaves_something_where_no_count_is_discounted() -> None:
    # b follows a six times: trusted. It counts as 6 of 7, and the seventh is shared by the others.
    table = counted([[A, B]] * 6 + [[C]], "katz", order=2)
    assert after(table, [A])[B] == pytest.approx(6 / 7)
    assert sum(after(table, [A])) == pytest.approx(1)
    assert min(after(table, [A])) > 0.01


@pytest.mark.parametrize("estimator", ESTIMATORS)
@settings(max_examples=40, deadline=None)
@given(
    st.lists(TEXT, min_size=1, max_size=8),
    st.integers(1, 5),
    st.lists(st.integers(0, 7), min_size=1, max_size=6),
)
def test_probabilities_sum_to_one_after_any_context(
    estimator: Estimator, texts: list[list[int]], order: int, context: list[int]
) -> None:
    table = counted(texts, estimator, order=order, vocab=7)
    assert sum(after(table, context)) == pytest.approx(
        1, abs=1e-5
    )  # 7 is the start of a text, 5 may be unknown


@pytest.mark.parametrize("estimator", ESTIMATORS)
@settings(max_examples=30, deadline=None)
@given(
    st.lists(TEXT, min_size=1, max_size=8),
    st.integers(1, 5),
    st.lists(st.integers(0, 7), min_size=1, max_size=9),
)
def test_a_token_looked_up_alone_has_the_probability_it_has_among_all(
    estimator: Estimator, texts: list[list[int]], order: int, context: list[int]
) -> None:
    table = counted(texts, estimator, order=order, vocab=7)
    states = table.follow(np.array([context]))[0]
    whole = table.spread(states)
    for token in range(7):
        alone = table.score(states, np.full(len(context), token))
        assert alone == pytest.approx(whole[:, token], abs=1e-4)


def test_every_token_has_an_id_of_the_counter_and_is_found_again() -> None:
    for eos in (0, 2, 5):
        ids = counter_ids(6, eos)
        assert sorted(ids) == [1, 3, 4, 5, 6, 7]
        assert ids[eos] == 3
        assert symbols_of(ids)[ids].tolist() == list(range(6))
        assert symbols_of(ids)[2] == 6


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'prune' is \[0, 1\], but only kneser-ney prunes"):
        Smoothing(estimator="katz", prune=(0, 1))
    with pytest.raises(ConfigError, match="the id 9 that ends texts is not one of 4"):
        TokenCounter(2, vocab=4, eos=9, folder=tmp_path)
    with pytest.raises(DataError, match="no text"):
        TokenCounter(2, vocab=4, eos=3, folder=tmp_path).table(Smoothing())
