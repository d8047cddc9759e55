"""How sure the fitted numbers are: the same fits on runs drawn again, with replacement.

Source: Efron 1979; percentile intervals. A few runs too few make such intervals somewhat too narrow:
tests/training/scaling/test_bootstrap.py counts how often they hold the truth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from numpy import ndarray as Array

from luban.training.scaling import isoflop
from luban.training.scaling.isoflop import Growth
from luban.training.scaling.law import FEWEST, Law, fit_many
from luban.training.scaling.points import Point

LEVEL = 0.95
SIZES_PER_BUDGET = 3
"""Different sizes that a parabola needs."""
Interval = tuple[float, float]


def interval(values: Sequence[float]) -> Interval:
    """The middle LEVEL of `values`."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def laws(points: Sequence[Point], resamples: int, *, seed: int, body: bool = False) -> list[Law]:
    """The law of all points, then one for each resample. With `body` N leaves the head out, as Kaplan's does."""
    sizes = np.array([point.body if body else point.weights for point in points], float)
    tokens = np.array([point.tokens for point in points], float)
    losses = np.array([point.loss for point in points])
    chance = np.random.default_rng(seed)
    everything = np.arange(len(points))
    draws = [everything, *(_draw(everything, FEWEST, points, chance) for _ in range(resamples))]
    return fit_many(sizes, tokens, losses, np.stack(draws))


def growths(points: Sequence[Point], resamples: int, *, seed: int) -> list[Growth]:
    """How the best size grows, for each resample that tells: runs are drawn again within each budget.

    A budget whose draw has no lowest point inside the grid is left out; a resample with fewer than two left is none.
    """
    chance = np.random.default_rng(seed)
    budgets = [
        np.array([place for place, point in enumerate(points) if point.budget == budget])
        for budget in sorted({point.budget for point in points})
    ]
    found: list[Growth] = []
    for _ in range(resamples):
        drawn = np.concatenate([_draw(runs, SIZES_PER_BUDGET, points, chance) for runs in budgets])
        grown = isoflop.growth(isoflop.optima([points[place] for place in drawn]))
        found += [grown] if grown else []
    return found


def _draw(
    places: Int[Array, " runs"], fewest: int, points: Sequence[Point], chance: np.random.Generator
) -> Int[Array, " runs"]:
    """As many of `places`, with replacement; drawn again until enough different runs are among them."""
    needed = min(fewest, len({_key(points[place]) for place in places}))
    while True:
        drawn = chance.choice(places, len(places))
        if len({_key(points[place]) for place in drawn}) >= needed:
            return drawn


def _key(point: Point) -> tuple[str, float]:
    return point.size, point.budget
