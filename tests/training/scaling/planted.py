"""Grids whose law is known: cells as if trained, with as much noise as wanted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from luban.training.scaling.law import CHINCHILLA, Law
from luban.training.scaling.points import Point

SIZES = (5e7, 1.5e8, 4.5e8, 1.3e9, 4e9, 1.2e10)
BUDGETS = (1e19, 3e19, 1e20, 3e20, 1e21)


def grid(
    law: Law = CHINCHILLA,
    *,
    noise: float = 0.0,
    seed: int = 0,
    sizes: Sequence[float] = SIZES,
    budgets: Sequence[float] = BUDGETS,
) -> list[Point]:
    """Every size with every budget of 6ND; `noise` is the standard deviation of ln L."""
    chance = np.random.default_rng(seed)
    return [
        point(weights, budget, law, float(np.exp(noise * chance.standard_normal())))
        for weights in sizes
        for budget in budgets
    ]


def point(weights: float, budget: float, law: Law, factor: float = 1.0) -> Point:
    tokens = budget / 6 / weights
    loss = law.loss(weights, tokens) * factor
    return Point(
        size=f"1x{weights:.0f}",
        seed=0,
        budget=budget,
        weights=round(weights),
        body=round(weights),
        tokens=round(tokens),
        flops=budget,
        loss=loss,
        bits_per_byte=loss / 2,
        tokens_per_second=1e12 / (6 * weights),
        epochs=tokens / 1e12,
    )
