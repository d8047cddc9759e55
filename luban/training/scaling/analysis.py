"""Everything that a grid's runs say: both fits with their intervals, and whether more compute always helped."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from luban.training.scaling import bootstrap, isoflop
from luban.training.scaling.isoflop import Growth, Optimum
from luban.training.scaling.law import Law
from luban.training.scaling.points import Point, frontier, frontier_falls

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """The fits of a grid; `laws` and `growths` are those of its resamples."""

    points: Sequence[Point]
    law: Law
    laws: Sequence[Law]
    optima: Sequence[Optimum]
    growth: Growth | None
    growths: Sequence[Growth]
    body_law: Law
    """The law when N leaves the head out (Kaplan's N): small models look worse for their size then."""


def analyse(points: Sequence[Point], *, resamples: int, seed: int) -> Analysis:
    """Fit both ways, and again on `resamples` draws. Raises DataError where the cells are too few for a law."""
    law, *laws = bootstrap.laws(points, resamples, seed=seed)
    found = isoflop.optima(points)
    grown = isoflop.growth(found)
    return Analysis(
        points=points,
        law=law,
        laws=laws,
        optima=found,
        growth=grown,
        growths=bootstrap.growths(points, resamples, seed=seed) if grown else [],
        body_law=bootstrap.laws(points, 0, seed=seed, body=True)[0],
    )


def as_numbers(analysis: Analysis) -> dict[str, Any]:
    """What scaling.json and `--json` hold; a fitted number is `value`, `low` and `high`."""
    law, laws = analysis.law, analysis.laws
    return {
        "cells": [
            {**dataclasses.asdict(point), "flops_6nd": point.flops_6nd, "law_loss": _by_law(law, point)}
            for point in analysis.points
        ],
        "law": {
            "E": measured(lambda one: one.e, law, laws),
            "A": measured(lambda one: one.a, law, laws),
            "B": measured(lambda one: one.b, law, laws),
            "alpha": measured(lambda one: one.alpha, law, laws),
            "beta": measured(lambda one: one.beta, law, laws),
            "size_exponent": measured(lambda one: one.size_exponent, law, laws),
            "data_exponent": measured(lambda one: one.data_exponent, law, laws),
            "error": law_error(law, analysis.points),
        },
        "isoflop": _isoflop(analysis),
        "body_only": {
            "alpha": analysis.body_law.alpha,
            "beta": analysis.body_law.beta,
            "size_exponent": analysis.body_law.size_exponent,
        },
        "frontier": [
            {"budget": point.budget, "size": point.size, "loss": point.loss}
            for point in frontier(analysis.points)
        ],
        "frontier_falls": frontier_falls(analysis.points),
    }


def measured(read: Callable[[T], float], value: T, draws: Sequence[T]) -> dict[str, float | None]:
    """A number of a fit with its interval over the resamples."""
    low, high = bootstrap.interval([read(draw) for draw in draws]) if draws else (None, None)
    return {"value": read(value), "low": low, "high": high}


def law_error(law: Law, points: Sequence[Point]) -> float:
    """How far the law is from the runs it was fitted to: root mean square of ln L."""
    apart = [np.log(_by_law(law, point) / point.loss) for point in points]
    return float(np.sqrt(np.mean(np.square(apart))))


def _by_law(law: Law, point: Point) -> float:
    return law.loss(point.weights, point.tokens)


def _isoflop(analysis: Analysis) -> dict[str, Any]:
    grown, draws = analysis.growth, analysis.growths
    exponents = {
        "size_exponent": measured(lambda one: one.size_exponent, grown, draws),
        "data_exponent": measured(lambda one: one.data_exponent, grown, draws),
    } if grown else {"size_exponent": None, "data_exponent": None}  # fmt: skip
    return {
        "optima": [dataclasses.asdict(one) for one in analysis.optima],
        **exponents,
        "resamples_that_tell": len(draws),
    }
