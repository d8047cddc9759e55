"""IsoFLOP curves: the lowest point by hand, and the growth of a planted law's best size."""

from __future__ import annotations

import dataclasses
import math

import pytest

from luban.training.scaling import isoflop
from luban.training.scaling.law import CHINCHILLA
from luban.training.scaling.points import Point, frontier, frontier_falls
from tests.training.scaling.planted import grid, point


def curve(best: float, *, budget: float = 6e14, square: float = 0.1) -> list[Point]:
    """Three sizes whose losses lie on 3 + square * ln(N / best)^2."""
    points = [point(weights, budget, CHINCHILLA) for weights in (3e5, 1e6, 4e6)]
    return [dataclasses.replace(p, loss=3 + square * math.log(p.weights / best) ** 2) for p in points]


def test_the_lowest_point_of_a_parabola_is_found() -> None:
    one = isoflop.optimum(curve(8e5))
    assert one is not None
    assert (one.weights, one.loss) == pytest.approx((8e5, 3.0))
    assert one.tokens == pytest.approx(6e14 / 6 / 8e5, rel=1e-3)
    assert one.inside


def test_a_curve_that_bends_down_or_has_two_sizes_has_no_lowest_point() -> None:
    assert isoflop.optimum(curve(8e5, square=-0.1)) is None
    assert isoflop.optimum(curve(8e5)[:2]) is None


def test_a_lowest_point_beyond_the_sizes_is_left_out_of_the_power_law() -> None:
    beyond = curve(1e8, budget=6e16)
    assert not isoflop.optima(beyond)[0].inside
    two = [*curve(5e5), *curve(2e6, budget=6e15)]
    grown = isoflop.growth(isoflop.optima([*two, *beyond]))
    assert grown is not None
    assert grown.size_exponent == pytest.approx(math.log(4) / math.log(10), rel=1e-6)
    assert grown.best(6e15)[0] == pytest.approx(2e6, rel=1e-6)
    assert isoflop.growth(isoflop.optima([*curve(5e5), *beyond])) is None


def test_the_growth_of_a_planted_law_is_found_without_knowing_the_law() -> None:
    found = isoflop.optima(grid(sizes=[1e8 * 1.5**power for power in range(10)]))
    grown = isoflop.growth(found)
    assert grown is not None
    assert grown.size_exponent == pytest.approx(CHINCHILLA.size_exponent, abs=0.03)
    assert grown.data_exponent == pytest.approx(CHINCHILLA.data_exponent, abs=0.03)
    for one in found:
        assert one.weights == pytest.approx(CHINCHILLA.best(one.budget)[0], rel=0.25)


def test_the_frontier_is_the_best_run_of_each_budget() -> None:
    points = [*curve(3e5), *(dataclasses.replace(p, loss=p.loss - 1) for p in curve(4e6, budget=6e15))]
    assert [(p.budget, p.weights) for p in frontier(points)] == [(6e14, 3e5), (6e15, 4e6)]
    assert frontier_falls(points)
    assert not frontier_falls([*curve(3e5), *curve(4e6, budget=6e15)])
