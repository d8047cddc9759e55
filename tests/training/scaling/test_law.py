"""The law of loss: its optimum by hand, planted laws found again, and scipy finds nothing better."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from luban.errors import DataError
from luban.training.scaling.law import CHINCHILLA, HUBER_DELTA, Law, fit, fit_many
from luban.training.scaling.points import Point
from tests.training.scaling.planted import grid

Columns = tuple[np.ndarray, np.ndarray, np.ndarray]


def columns(points: list[Point]) -> Columns:
    rows = [(float(p.weights), float(p.tokens), p.loss) for p in points]
    weights, tokens, loss = (np.array(column) for column in zip(*rows, strict=True))
    return weights, tokens, loss


def huber(law: Law, cells: Columns) -> float:
    apart = [abs(math.log(law.loss(n, d) / loss)) for n, d, loss in zip(*cells, strict=True)]
    return sum(r * r / 2 if r < HUBER_DELTA else HUBER_DELTA * (r - HUBER_DELTA / 2) for r in apart)


def test_the_loss_is_the_sum_of_three_terms() -> None:
    assert Law(e=1.0, a=8.0, b=9.0, alpha=0.5, beta=2.0).loss(16, 3) == 1 + 8 / 4 + 9 / 9


def test_the_best_size_grows_with_beta_over_the_sum_of_the_exponents() -> None:
    assert CHINCHILLA.size_exponent == pytest.approx(0.28 / 0.62)
    assert CHINCHILLA.data_exponent == pytest.approx(0.34 / 0.62)
    (n1, d1), (n2, d2) = CHINCHILLA.best(1e20), CHINCHILLA.best(1e22)
    assert math.log(n2 / n1) / math.log(100) == pytest.approx(0.28 / 0.62)
    assert math.log(d2 / d1) / math.log(100) == pytest.approx(0.34 / 0.62)


@pytest.mark.parametrize("compute", [1e12, 1e21])
def test_no_other_size_is_better_for_the_same_compute(compute: float) -> None:
    weights, tokens = CHINCHILLA.best(compute)
    assert 6 * weights * tokens == pytest.approx(compute)
    for factor in (0.9, 0.99, 1.01, 1.1):
        assert CHINCHILLA.loss(weights * factor, tokens / factor) > CHINCHILLA.loss(weights, tokens)


@pytest.mark.parametrize("law", [CHINCHILLA, Law(e=2.5, a=90.0, b=5e4, alpha=0.45, beta=0.8)])
def test_a_planted_law_is_found_again(law: Law) -> None:
    found = fit(*columns(grid(law)))
    assert (found.e, found.alpha, found.beta) == pytest.approx((law.e, law.alpha, law.beta), rel=1e-4)
    assert (found.a, found.b) == pytest.approx((law.a, law.b), rel=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_scipy_finds_no_better_law(seed: int) -> None:
    cells = columns(grid(noise=0.01, seed=seed))

    def cost(numbers: Any) -> float:
        a, b, e, alpha, beta = numbers.tolist()
        law = Law(e=math.exp(e), a=math.exp(a), b=math.exp(b), alpha=alpha, beta=beta)
        return huber(law, cells) / HUBER_DELTA

    starts = [(a, a, e, x, x) for a in (4.0, 7.0) for e in (0.0, 0.7) for x in (0.2, 0.4)]
    theirs = min(
        minimize(cost, start, method="Nelder-Mead", options={"maxiter": 4000, "maxfev": 4000}).fun
        for start in starts
    )
    assert huber(fit(*cells), cells) / HUBER_DELTA <= theirs * (1 + 1e-4)


def test_one_failed_run_hardly_moves_the_law() -> None:
    weights, tokens, loss = columns(grid(noise=0.002))
    loss[7] *= 1.3
    assert fit(weights, tokens, loss).alpha == pytest.approx(0.34, abs=0.03)


def test_many_fits_at_once_equal_each_alone() -> None:
    cells = columns(grid(noise=0.005))
    everything = np.arange(len(cells[0]))
    part = np.concatenate([everything[:25], everything[:5]])
    weights, tokens, loss = (column[part] for column in cells)
    together = fit_many(*cells, np.stack([everything, part]))
    alone = fit(weights, tokens, loss)
    drawn = (weights, tokens, loss)
    assert together[0] == fit(*cells)
    assert huber(together[1], drawn) == pytest.approx(huber(alone, drawn), rel=1e-4)


def test_five_cells_are_refused() -> None:
    cells = columns(grid())
    with pytest.raises(DataError, match="needs at least 6 different cells"):
        fit(*(column[:5].repeat(2) for column in cells))
