"""Intervals: they hold planted numbers about as often as they say, and grow with the noise."""

from __future__ import annotations

import pytest

from luban.training.scaling import bootstrap
from luban.training.scaling.analysis import analyse, as_numbers
from luban.training.scaling.law import CHINCHILLA
from tests.training.scaling.planted import grid


def test_the_published_law_is_found_within_its_intervals() -> None:
    found = as_numbers(analyse(grid(noise=0.005), resamples=200, seed=0))
    law = found["law"]
    for name in ("alpha", "beta", "size_exponent", "data_exponent"):
        assert law[name]["low"] < getattr(CHINCHILLA, name) < law[name]["high"], name
        assert law[name]["low"] < law[name]["value"] < law[name]["high"], name
    assert law["E"]["low"] < CHINCHILLA.e < law["E"]["high"]
    iso = found["isoflop"]["size_exponent"]
    assert iso["low"] < CHINCHILLA.size_exponent < iso["high"]
    assert law["error"] == pytest.approx(0.005, rel=0.5)


def test_the_same_seed_gives_the_same_intervals() -> None:
    one, same, other = (
        as_numbers(analyse(grid(noise=0.005), resamples=20, seed=seed))["law"] for seed in (1, 1, 2)
    )
    assert one == same
    assert len(analyse(grid(noise=0.005), resamples=7, seed=0).laws) == 7
    assert one["alpha"]["low"] != other["alpha"]["low"]


def test_more_noise_makes_wider_intervals() -> None:
    widths: list[float] = []
    for noise in (0.002, 0.02):
        draws = bootstrap.laws(grid(noise=noise), 60, seed=0)
        low, high = bootstrap.interval([law.alpha for law in draws[1:]])
        widths.append(high - low)
    assert widths[1] > 3 * widths[0]


def test_an_interval_is_the_middle_95_percent() -> None:
    assert bootstrap.interval([float(number) for number in range(1001)]) == pytest.approx((25, 975))


@pytest.mark.slow
def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    grids, names = 40, ("alpha", "beta", "size_exponent")
    held, widths = dict.fromkeys(names, 0), dict.fromkeys(names, 0.0)
    for seed in range(grids):
        draws = bootstrap.laws(grid(noise=0.01, seed=seed), 120, seed=seed)[1:]
        for name in names:
            low, high = bootstrap.interval([getattr(law, name) for law in draws])
            held[name] += low <= getattr(CHINCHILLA, name) <= high
            widths[name] += (high - low) / grids
    assert min(held.values()) >= 0.85 * grids, (
        held
    )  # 34 of 40: chance alone brings 95 % there once in 100 tests
    assert max(widths.values()) < 0.2, widths  # an interval wide enough to hold anything would be none
