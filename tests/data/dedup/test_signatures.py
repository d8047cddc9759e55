from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.data.dedup import signatures as module
from luban.data.dedup.lsh import choose_bands, meeting_chance
from luban.data.dedup.signatures import band_keys, signatures


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 2**32 - 1), max_size=40), max_size=6),
    st.sampled_from([1, 16, 50, 112]),
    st.integers(0, 3),
)
def test_a_signature_holds_the_least_value_of_each_function(
    sets: list[list[int]], hashes: int, seed: int
) -> None:
    items = np.array([item for own in sets for item in own], np.uint32)
    found = signatures(items, np.array([len(own) for own in sets], np.int64), hashes, seed=seed)
    masks, factors = module._functions(hashes, seed)
    for own, row in zip(sets, found, strict=True):
        values = (np.array(own, np.uint32)[:, None] ^ masks[:hashes]) * factors[:hashes]
        assert row.tolist() == (values.min(axis=0) if own else np.full(hashes, 2**32 - 1)).tolist()


def test_functions_are_the_same_in_every_release() -> None:
    found = signatures(np.array([1, 2, 3], np.uint32), np.array([3]), 112)
    assert found[0, :3].tolist() == [965862536, 2614495473, 1537853871]


def test_another_seed_draws_other_functions() -> None:
    drawn = [module._functions(112, seed) for seed in range(20)]
    assert len({number for one in drawn for number in (*one[0], *one[1])}) == 20 * 2 * 112


@pytest.mark.parametrize("jaccard", [0.2, 0.5, 0.8, 0.95])
def test_two_signatures_agree_in_as_many_values_as_the_sets_are_alike(jaccard: float) -> None:
    rows, alike = same_values(jaccard, texts=1500, size=300)
    # Per pair a binomial of 112 draws: mean J, variance J (1 - J) / 112, so functions are as good as independent.
    assert rows.mean() == pytest.approx(alike, abs=4 * (alike * (1 - alike) / 112 / 1500) ** 0.5)
    assert rows.var() == pytest.approx(alike * (1 - alike) / 112, rel=0.15)


@pytest.mark.parametrize("jaccard", [0.5, 0.7, 0.8, 0.9])
def test_bands_meet_as_often_as_theory_says_less_one_point(jaccard: float) -> None:
    count = 4000
    items, counts, alike = pairs(jaccard, texts=count, size=200)
    keys = band_keys(signatures(items, counts, 112), counts, bands=14, rows=8)
    met = (keys[0::2] == keys[1::2]).any(axis=1).mean()
    theory = float(meeting_chance(alike, bands=14, rows=8))
    assert abs(met - theory) < 0.01 + 2 * (theory * (1 - theory) / count) ** 0.5


def test_a_band_key_depends_on_each_of_its_rows_and_no_other() -> None:
    values = np.arange(24, dtype=np.uint32).reshape(1, 24)
    base = band_keys(values, np.array([1]), bands=3, rows=8)
    for place in range(24):
        changed = values.copy()
        changed[0, place] += 1
        differs = (band_keys(changed, np.array([1]), bands=3, rows=8) != base)[0]
        assert differs.tolist() == [band == place // 8 for band in range(3)]


def test_a_text_without_shingles_has_no_key() -> None:
    values = signatures(np.array([7], np.uint32), np.array([0, 1]), 16)
    assert (band_keys(values, np.array([0, 1]), bands=2, rows=8) == 0).all(axis=1).tolist() == [True, False]


def test_bands_are_chosen_as_for_slimpajama() -> None:
    assert choose_bands(0.8, 128) == (9, 13)


def test_the_chosen_bands_are_the_best_of_all() -> None:
    """The sum of wrong chances, written out again for 20 hashes."""

    def wrong(bands: int, rows: int) -> float:
        grid = [(i + 0.5) / 1000 for i in range(1000)]
        chances = [(j, 1 - (1 - j**rows) ** bands) for j in grid]
        return sum(chance if j < 0.6 else 1 - chance for j, chance in chances)

    choices = [(b, r) for b in range(1, 21) for r in range(1, 21) if b * r <= 20]
    assert choose_bands(0.6, 20) == min(choices, key=lambda choice: wrong(*choice))


def test_theory_at_a_point_worked_out_by_hand() -> None:
    # 0.8^8 = 0.16777216; (1 - 0.16777216)^14 = 0.0765; so 0.9235 meet.
    assert float(meeting_chance(0.8, bands=14, rows=8)) == pytest.approx(0.9235, abs=1e-4)


def pairs(jaccard: float, *, texts: int, size: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Pairs of random sets, one after the other, that share as many of `size` items as gives the similarity."""
    shared = round(2 * size * jaccard / (1 + jaccard))
    drawn = np.random.default_rng(0).integers(0, 2**32, (texts, 2 * size - shared), np.uint32)
    both = np.stack([drawn[:, :size], np.concatenate([drawn[:, :shared], drawn[:, size:]], axis=1)], axis=1)
    return both.reshape(-1), np.full(2 * texts, size, np.int64), shared / (2 * size - shared)


def same_values(jaccard: float, *, texts: int, size: int) -> tuple[np.ndarray, float]:
    items, counts, alike = pairs(jaccard, texts=texts, size=size)
    found = signatures(items, counts, 112)
    return (found[0::2] == found[1::2]).mean(axis=1), alike
