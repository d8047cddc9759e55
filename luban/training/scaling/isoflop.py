"""What size is best for each compute: a parabola of the loss over ln N per budget, and how its lowest point moves.

It assumes no law of the loss, so it checks the one of `law.py`.

Source: Hoffmann et al. 2022, approach 2 (arXiv:2203.15556).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from luban.training.scaling.points import Point


@dataclass(frozen=True)
class Optimum:
    """The lowest point of a budget's parabola."""

    budget: float
    flops: float
    """What the runs of the budget took, on average."""
    weights: float
    tokens: float
    loss: float
    parabola: tuple[float, float, float]
    """Of the loss over ln N: square, slope, constant."""
    inside: bool
    """Whether it lies between the smallest and the largest size: beyond them the parabola is a guess."""


@dataclass(frozen=True)
class Growth:
    """N and D of the best run as powers of compute."""

    size_exponent: float
    data_exponent: float
    size_at_1: float
    """ln N for 1 FLOP, where the line of logarithms begins."""
    data_at_1: float

    def best(self, compute: float) -> tuple[float, float]:
        """Weights and tokens for `compute` FLOPs."""
        grown = math.log(compute)
        sizes = self.size_at_1 + self.size_exponent * grown, self.data_at_1 + self.data_exponent * grown
        return math.exp(sizes[0]), math.exp(sizes[1])


def optimum(points: Sequence[Point]) -> Optimum | None:
    """The best size among runs of one budget; None if fewer than three sizes or a curve without a lowest point."""
    sizes = np.log([point.weights for point in points])
    if len({point.weights for point in points}) < 3:
        return None
    middle = float(sizes.mean())  # a parabola around 0 is better conditioned
    square, slope, constant = np.polyfit(sizes - middle, [point.loss for point in points], 2).tolist()
    if square <= 0:
        return None
    place = -slope / (2 * square)
    lowest = place + middle
    return Optimum(
        budget=points[0].budget,
        flops=math.exp(float(np.mean([math.log(point.flops) for point in points]))),
        weights=math.exp(lowest),
        tokens=_tokens_at(lowest, points),
        loss=constant - square * place**2,
        parabola=(square, slope - 2 * square * middle, constant - slope * middle + square * middle**2),
        inside=float(sizes.min()) <= lowest <= float(sizes.max()),
    )


def _tokens_at(log_weights: float, points: Sequence[Point]) -> float:
    """Tokens that the budget leaves a model of this size; a line through the runs' logarithms, which is one."""
    slope, constant = np.polyfit(
        [math.log(point.weights) for point in points], [math.log(point.tokens) for point in points], 1
    )
    return math.exp(slope * log_weights + constant)


def optima(points: Sequence[Point]) -> list[Optimum]:
    """The optimum of each budget that has one, from the smallest budget to the largest."""
    budgets = sorted({point.budget for point in points})
    found = [optimum([point for point in points if point.budget == budget]) for budget in budgets]
    return [one for one in found if one is not None]


def growth(found: Sequence[Optimum]) -> Growth | None:
    """The power laws through the optima that lie inside the grid; None if fewer than two do."""
    used = [one for one in found if one.inside]
    if len(used) < 2:
        return None
    compute = np.log([one.flops for one in used])
    size, size_at_1 = _line(compute, np.log([one.weights for one in used]))
    data, data_at_1 = _line(compute, np.log([one.tokens for one in used]))
    return Growth(size_exponent=size, data_exponent=data, size_at_1=size_at_1, data_at_1=data_at_1)


def _line(x: Float[Array, " n"], y: Float[Array, " n"]) -> tuple[float, float]:
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
    return slope, float(y.mean() - slope * x.mean())
