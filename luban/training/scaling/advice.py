"""What to train for a budget: how many weights, how many tokens, and the loss to expect."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from luban.training.scaling.analysis import Analysis, measured
from luban.training.scaling.law import EXPONENTS, FLOPS_PER_WEIGHT
from luban.training.scaling.points import Point

FAR = 10.0
"""Times beyond the grid from which on a forecast is called far."""
WIDEST = 8192
"""The widest model that is proposed."""
MOST_EPOCHS = 4
"""Passes up to which text is worth about as much as fresh text: Muennighoff et al. 2023 (arXiv:2305.16264)."""


def for_compute(analysis: Analysis, compute: float) -> dict[str, Any]:
    """N, D and loss for `compute` = 6ND FLOPs by the law, N and D also by IsoFLOP, and `warnings`."""
    weights, tokens = analysis.law.best(compute)
    growth = analysis.growth.best(compute) if analysis.growth else None
    per_nat = median(point.bits_per_byte / point.loss for point in analysis.points)
    loss = measured(lambda law: law.loss(weights, tokens), analysis.law, analysis.laws)
    return {
        "flops": compute,
        "weights": measured(lambda law: law.best(compute)[0], analysis.law, analysis.laws),
        "tokens": measured(lambda law: law.best(compute)[1], analysis.law, analysis.laws),
        "tokens_per_weight": tokens / weights,
        "size": nearest_size(weights, analysis.points),
        "loss": loss,
        "bits_per_byte": {name: value and value * per_nat for name, value in loss.items()},
        "isoflop": {"weights": growth[0], "tokens": growth[1]} if growth else None,
        "warnings": _warnings(analysis, compute, weights, tokens),
    }


def nearest_size(weights: float, points: Sequence[Point]) -> str:
    """LAYERSxDIM of about so many weights, in the family and vocabulary of the grid, 32 to 64 of width per layer."""
    known = max(points, key=lambda point: point.weights)
    layers, dim = map(int, known.size.split("x"))
    block, head = known.body / layers / dim**2, (known.weights - known.body) / dim
    shapes = [
        (layers, dim) for dim in range(32, WIDEST + 1, 32) for layers in range(-(-dim // 64), dim // 32 + 1)
    ]
    layers, dim = min(
        shapes, key=lambda shape: abs(math.log((block * shape[0] * shape[1] + head) * shape[1] / weights))
    )
    return f"{layers}x{dim}"


def for_minutes(analysis: Analysis, minutes: float) -> dict[str, Any]:
    """The same for a time on the machine that trained the grid, by the speed it had with each size."""
    speeds = _speeds(analysis.points)
    compute = 60 * minutes * FLOPS_PER_WEIGHT * speeds[-1][0] * speeds[-1][1]
    for _ in range(50):  # the best size depends on the compute, and the speed on the size
        weights, _ = analysis.law.best(compute)
        compute = math.sqrt(compute * 60 * minutes * FLOPS_PER_WEIGHT * weights * _speed(weights, speeds))
    found = for_compute(analysis, compute)
    return {"minutes": minutes, "tokens_per_second": found["tokens"]["value"] / 60 / minutes, **found}


def _speeds(points: Sequence[Point]) -> list[tuple[int, float]]:
    """Weights and median tokens per second of each size, smallest first."""
    sizes = sorted({point.weights for point in points})
    return [(size, median(p.tokens_per_second for p in points if p.weights == size)) for size in sizes]


def _speed(weights: float, speeds: Sequence[tuple[int, float]]) -> float:
    """Tokens per second of a size: between those of the grid by logarithm, beyond them at the same FLOP/s."""
    sizes, rates = (np.log(column) for column in zip(*speeds, strict=True))
    place = math.log(weights)
    beyond = max(0.0, place - float(sizes[-1])) + min(0.0, place - float(sizes[0]))
    return math.exp(float(np.interp(place, sizes, rates)) - beyond)


def _warnings(analysis: Analysis, compute: float, weights: float, tokens: float) -> list[str]:
    points = analysis.points
    told = [
        *_far("compute", compute, [point.flops_6nd for point in points]),
        *_far("size", weights, [point.weights for point in points]),
        *_far("number of tokens", tokens, [point.tokens for point in points]),
    ]
    passes = tokens / median(point.tokens / point.epochs for point in points)
    if passes > MOST_EPOCHS:
        told.append(
            f"the training text would be gone through {passes:.1f} times; beyond {MOST_EPOCHS} it loses worth"
        )
    ends = [name for name in ("alpha", "beta") if getattr(analysis.law, name) in EXPONENTS]
    told += [
        f"{name} lies at the end of where it is looked for: the grid does not determine it" for name in ends
    ]
    return told


def _far(what: str, value: float, grid: Sequence[float]) -> list[str]:
    """One warning if `value` is FAR times beyond the grid's, none if not."""
    times = max(value / max(grid), min(grid) / value)
    return [f"the {what} is {times:,.0f} times beyond the grid: a guess"] if times > FAR else []
