"""Noise on ids: what each one does, at its rate, and T5's spans back to the text they came from."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luban.data.corrupt import (
    BART_NOISE,
    Noise,
    corrupt,
    delete_tokens,
    drop_spans,
    infill,
    mask_tokens,
    permute_sentences,
    restore_spans,
    rotate,
    sentinels_needed,
)
from luban.errors import DataError

MASK, STOP = 1, 2
SENTINELS = range(1000, 2000)
LENGTH = 200_000
TEXT = np.arange(10, 10 + LENGTH)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def assert_binomial(count: int, trials: int, rate: float) -> None:
    """`count` lies within four standard deviations."""
    assert abs(count - trials * rate) < 4 * math.sqrt(trials * rate * (1 - rate))


def test_masking_replaces_each_token_at_its_rate_and_no_other() -> None:
    made = mask_tokens(TEXT, rng(), rate=0.15, mask=MASK)
    assert_binomial(int((made == MASK).sum()), LENGTH, 0.15)
    assert np.array_equal(made[made != MASK], TEXT[made != MASK])


def test_deletion_takes_each_token_at_its_rate_and_leaves_the_order() -> None:
    made = delete_tokens(TEXT, rng(), rate=0.2)
    assert_binomial(LENGTH - len(made), LENGTH, 0.2)
    assert (np.diff(made) > 0).all()


def gaps_of(made: np.ndarray) -> np.ndarray:
    """How many tokens are missing at each mask of a text that counts upwards (masks must not touch)."""
    at = np.flatnonzero(made == MASK)
    return made[at + 1] - made[at - 1] - 1


def test_infilling_hides_its_share_behind_one_mask_a_span() -> None:
    made = infill(TEXT, rng(), rate=0.3, mask=MASK)
    kept = made[made != MASK]
    assert len(kept) == LENGTH * 0.7
    assert (np.diff(kept) > 0).all()
    spans = int((made == MASK).sum())
    # Span lengths are Poisson(3): mean and variance 3.
    assert abs(0.3 * LENGTH / spans - 3) < 4 * math.sqrt(3 / spans)


def test_spans_are_poisson_lengths_with_some_of_none() -> None:
    # A low rate, so that hardly any two masks touch and each gap is one span's length.
    made = infill(TEXT, rng(), rate=0.02, mask=MASK)
    alone = ~np.isin(np.flatnonzero(made == MASK), np.flatnonzero(made == MASK) + 1)
    assert alone.mean() > 0.97
    lengths = gaps_of(made[np.append(True, (made[1:] != MASK) | (made[:-1] != MASK))])
    for length in range(6):
        chance = math.exp(-3) * 3**length / math.factorial(length)
        assert abs((lengths == length).mean() - chance) < 5 * math.sqrt(chance / len(lengths)) + 0.01, length


@given(st.integers(0, 40), st.floats(0, 1), st.floats(0.1, 9), st.integers(0, 2**32))
def test_infilling_takes_any_text_and_rate(length: int, rate: float, mean: float, seed: int) -> None:
    ids = np.arange(10, 10 + length)
    made = infill(ids, rng(seed), rate=rate, mask=MASK, mean_span=mean)
    missing = length - int((made != MASK).sum())
    assert missing in (int(rate * length), min(length, int(rate * length) + 1))
    assert (np.diff(made[made != MASK]) > 0).all()
    assert (MASK in made) == (missing > 0)


def test_the_share_of_hidden_tokens_is_right_on_average_in_short_texts_too() -> None:
    generator = rng()
    made = [infill(np.arange(10, 15), generator, rate=0.15, mask=MASK) for _ in range(20_000)]
    hidden = sum(5 - int((row != MASK).sum()) for row in made)
    assert_binomial(hidden, 100_000, 0.15)


def test_permuted_sentences_stay_whole() -> None:
    text = np.array([10, 11, STOP, 20, STOP, 30, 31, 32])
    orders = set()
    for seed in range(60):
        made = permute_sentences(text, rng(seed), ends=np.array([STOP])).tolist()
        assert sorted(made) == sorted(text)
        sentences = ([10, 11, STOP], [20, STOP], [30, 31, 32])
        orders.add(tuple(place for place in made if place in (10, 20, 30)))
        assert all(made[made.index(s[0]) :][: len(s)] == s for s in sentences)
    assert len(orders) == 6


def test_a_rotated_text_begins_anywhere_and_goes_around() -> None:
    text = np.arange(4)
    made = {tuple(rotate(text, rng(seed)).tolist()) for seed in range(40)}
    assert made == {(0, 1, 2, 3), (1, 2, 3, 0), (2, 3, 0, 1), (3, 0, 1, 2)}
    assert len(rotate(text[:0], rng())) == 0


def test_a_mixture_is_its_noises_one_after_the_other() -> None:
    text = np.array([10, 11, STOP, 20, 21, 22, STOP] * 30)
    ends = np.array([STOP])
    made = corrupt(text, BART_NOISE, rng(7), mask=MASK, sentence_ends=ends)
    generator = rng(7)
    generator.random()
    moved = permute_sentences(text, generator, ends=ends)
    generator.random()
    assert np.array_equal(made, infill(moved, generator, rate=0.3, mask=MASK))


def test_a_mixture_meets_the_stated_share_of_texts() -> None:
    noise, generator = Noise(rotation=0.25), rng()
    turned = sum(corrupt(TEXT[:64], noise, generator, mask=MASK)[0] != 10 for _ in range(4000))
    assert_binomial(int(turned), 4000, 0.25 * 63 / 64)


def test_no_noise_leaves_the_text() -> None:
    assert np.array_equal(corrupt(TEXT, Noise(), rng(), mask=MASK), TEXT)


NOISES: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "mask": lambda generator: mask_tokens(TEXT, generator, rate=0.1, mask=MASK),
    "delete": lambda generator: delete_tokens(TEXT, generator, rate=0.1),
    "infill": lambda generator: infill(TEXT, generator, rate=0.1, mask=MASK),
    "permute": lambda generator: permute_sentences(TEXT, generator, ends=TEXT[::9]),
    "rotate": lambda generator: rotate(TEXT, generator),
    "spans": lambda generator: drop_spans(TEXT[:999], generator, sentinels=SENTINELS_BELOW)[0],
}
SENTINELS_BELOW = range(-500, 0)


@pytest.mark.parametrize("name", NOISES)
def test_the_same_seed_gives_the_same_noise_and_another_seed_another(name: str) -> None:
    noise = NOISES[name]
    assert np.array_equal(noise(rng(3)), noise(rng(3)))
    assert not np.array_equal(noise(rng(3)), noise(rng(4)))


def test_dropped_spans_look_as_in_the_paper() -> None:
    source, target = drop_spans(np.arange(10, 18), rng(1), sentinels=[1, 2, 3, 4], rate=0.5, mean_span=2)
    marks = [int(token) for token in source if token < 10]
    assert marks == [1, 2]
    assert [int(token) for token in target if token < 10] == [1, 2, 3]
    assert target[-1] == 3
    missing = sorted(int(token) for token in target if token >= 10)
    assert len(missing) == 4
    assert sorted([*missing, *(int(token) for token in source if token >= 10)]) == list(range(10, 18))


@given(
    st.integers(2, 90), st.floats(0.01, 0.95), st.floats(1, 9), st.integers(0, 2**32), st.sampled_from(["u2", "i8"])
)  # fmt: skip
def test_dropped_spans_give_back_the_text(
    length: int, rate: float, mean: float, seed: int, kind: str
) -> None:
    ids = rng(seed).integers(0, 30, length).astype(kind)
    source, target = drop_spans(ids, rng(seed), sentinels=SENTINELS, rate=rate, mean_span=mean)
    assert source.dtype == target.dtype == ids.dtype
    assert np.array_equal(restore_spans(source, target, sentinels=SENTINELS), ids)
    spans = sentinels_needed(length, rate=rate, mean_span=mean) - 1
    assert int((source >= 1000).sum()) == spans
    assert not (np.diff(np.flatnonzero(source >= 1000)) == 1).any()  # spans do not touch
    assert 1 <= len(target) - spans - 1 <= length - 1


def test_spans_have_the_share_and_the_mean_length_that_t5_had() -> None:
    rows = 300
    generator = rng()
    made = [drop_spans(np.arange(512) % 900, generator, sentinels=SENTINELS) for _ in range(rows)]
    lengths = np.concatenate([np.diff(np.flatnonzero(target >= 1000)) - 1 for _, target in made])
    assert lengths.sum() == rows * round(0.15 * 512)
    assert lengths.mean() == pytest.approx(3, abs=0.05)
    places = np.concatenate([np.flatnonzero(source >= 1000) / len(source) for source, _ in made])
    assert places.mean() == pytest.approx(0.5, abs=4 / math.sqrt(12 * len(places)))


def test_too_few_sentinels_are_counted() -> None:
    with pytest.raises(DataError, match="256 tokens need 14 sentinels and there are 13") as error:
        drop_spans(np.arange(256), rng(), sentinels=range(1000, 1013))
    assert "--sentinels" in str(error.value)
    drop_spans(np.arange(256), rng(), sentinels=range(1000, 1014))


def test_a_text_with_a_sentinel_in_it_is_refused() -> None:
    with pytest.raises(DataError, match="holds the sentinel 1005"):
        drop_spans(np.array([7, 8, 1005]), rng(), sentinels=SENTINELS)


def test_a_text_of_one_token_cannot_lose_some() -> None:
    with pytest.raises(DataError, match="1 tokens are too few"):
        drop_spans(np.array([7]), rng(), sentinels=SENTINELS)


@pytest.mark.parametrize("target", [[], [1001, 7, 1001], [1000, 7], [7, 1000, 1001], [1000, 7, 1001, 8]])
def test_a_target_of_another_source_restores_nothing(target: list[int]) -> None:
    with pytest.raises(DataError, match=r"the source has sentinels \[1000\]"):
        restore_spans(np.array([5, 1000]), np.array(target, np.int64), sentinels=SENTINELS)
