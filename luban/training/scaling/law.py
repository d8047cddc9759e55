"""The law L(N, D) = E + A / N^alpha + B / D^beta, fitted to cells of a grid.

The fit is Hoffmann's: Huber's loss on the difference of logarithms, from many starts. It is done for many sets of
cells at once (Levenberg and Marquardt's steps on Huber's weights, in numpy), as the bootstrap asks for hundreds.

Source: Hoffmann et al. 2022, approach 3, eq. 2 to 4 and appendix D.3 (arXiv:2203.15556); that its optimum must be
reached, not approached: Besiroglu et al. 2024 (arXiv:2404.10102).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from luban.errors import DataError

HUBER_DELTA = 1e-3
"""Differences of ln L beyond it count by their size, not by its square: outliers do not pull."""
FLOPS_PER_WEIGHT = 6
"""C = 6ND, the equation's own count of compute: forward 2, backward 4 for each weight and token."""
FEWEST = 6
"""Different cells below which five numbers are not fitted but solved for."""
EXPONENTS = (0.01, 3.0)
"""Where alpha and beta are looked for."""
LEAST_E = 1e-3
ITERATIONS = 300
MOST_DAMPING = 1e4
"""A step so damped that it moves nothing: there is no better place nearby."""


@dataclass(frozen=True)
class Law:
    """The five numbers of L = E + A / N^alpha + B / D^beta; loss in nats per token, N in weights, D in tokens."""

    e: float
    a: float
    b: float
    alpha: float
    beta: float

    def loss(self, weights: float, tokens: float) -> float:
        """Held-out loss of a model of `weights`, trained on `tokens`."""
        return self.e + self.a / weights**self.alpha + self.b / tokens**self.beta

    @property
    def size_exponent(self) -> float:
        """How the best N grows with compute: C to the power of beta / (alpha + beta)."""
        return self.beta / (self.alpha + self.beta)

    @property
    def data_exponent(self) -> float:
        """How the best D grows with compute: what `size_exponent` leaves of 1."""
        return self.alpha / (self.alpha + self.beta)

    def best(self, compute: float) -> tuple[float, float]:
        """Weights and tokens of the lowest loss for `compute` = 6ND FLOPs."""
        balance = (self.alpha * self.a / (self.beta * self.b)) ** (1 / (self.alpha + self.beta))
        product = compute / FLOPS_PER_WEIGHT
        return balance * product**self.size_exponent, product**self.data_exponent / balance


CHINCHILLA = Law(e=1.69, a=406.4, b=410.7, alpha=0.34, beta=0.28)
"""As published (arXiv:2203.15556, eq. 10)."""


def fit(weights: Float[Array, " cells"], tokens: Float[Array, " cells"], loss: Float[Array, " cells"]) -> Law:
    """The law of these cells. Raises DataError for fewer than FEWEST different ones."""
    return fit_many(weights, tokens, loss, np.arange(len(loss))[None])[0]


def fit_many(
    weights: Float[Array, " cells"],
    tokens: Float[Array, " cells"],
    loss: Float[Array, " cells"],
    draws: Float[Array, "draws picked"],
) -> list[Law]:
    """A law for each row of `draws`, which are numbers of cells; the first row should be all of them.

    All starts are tried for the first row; the others start where the best few of these ended.
    """
    if len({*zip(weights.tolist(), tokens.tolist(), strict=True)}) < FEWEST:
        raise DataError(f"a law has 5 numbers and needs at least {FEWEST} different cells; here are fewer")
    middle = np.log(weights).mean(), np.log(tokens).mean()
    cells = np.stack([np.log(weights) - middle[0], np.log(tokens) - middle[1], np.log(loss)])
    ends, costs = _descend(_starts(loss), np.broadcast_to(cells[:, None], (3, len(_starts(loss)), len(loss))))
    good = ends[np.argsort(costs)[:4]]
    picked = cells[:, draws]  # [3, draws, picked]
    tried = [_descend(np.tile(start, (len(draws), 1)), picked) for start in good]
    best = np.argmin([cost for _, cost in tried], axis=0)
    found = np.stack([end for end, _ in tried])[best, np.arange(len(draws))]
    return [_law(row, *middle) for row in found]


def _law(row: Float[Array, " numbers"], middle_weights: float, middle_tokens: float) -> Law:
    a, b, e, alpha, beta = row.tolist()
    scales = math.exp(a + alpha * middle_weights), math.exp(b + beta * middle_tokens)
    return Law(e=math.exp(e), a=scales[0], b=scales[1], alpha=alpha, beta=beta)


def _starts(loss: Float[Array, " cells"]) -> Float[Array, "starts 5"]:
    """Each with a floor E and two exponents; A and B share what the floor leaves at the middle of the grid."""
    rows: list[list[float]] = []
    for share, alpha, beta in itertools.product((0.1, 0.5, 0.9), (0.1, 0.3, 0.6, 1.2), (0.1, 0.3, 0.6, 1.2)):
        floor = share * float(loss.min())
        rest = math.log((float(loss.mean()) - floor) / 2)
        rows.append([rest, rest, math.log(floor), alpha, beta])
    return np.array(rows)


def _descend(
    start: Float[Array, "fits 5"], cells: Float[Array, "3 fits cells"]
) -> tuple[Float[Array, "fits 5"], Float[Array, " fits"]]:
    """Where the descents from `start` end, and Huber's loss there.

    A row holds ln A and ln B at the middle of the grid, ln E, alpha and beta.
    """
    ends, costs = start.copy(), huber_cost(start, cells)
    damping, still = np.full(len(start), 1e-2), np.arange(len(start))
    for _ in range(ITERATIONS):
        some = cells[:, still]
        new = _bounded(ends[still] + _step(ends[still], some, damping[still]))
        cost = huber_cost(new, some)
        gain = costs[still] - cost
        better = gain > 0
        ends[still[better]], costs[still[better]] = new[better], cost[better]
        damping[still] *= np.where(better, 1 / 3, 4)
        arrived = (gain < 1e-7 * cost) & (better | (damping[still] > MOST_DAMPING))
        still = still[~arrived]
        if not len(still):
            break
    return ends, costs


def _bounded(place: Float[Array, "fits 5"]) -> Float[Array, "fits 5"]:
    place[:, 2] = np.maximum(place[:, 2], math.log(LEAST_E))
    place[:, 3:] = np.clip(place[:, 3:], *EXPONENTS)
    return place


def _step(
    now: Float[Array, "fits 5"], cells: Float[Array, "3 fits cells"], damping: Float[Array, " fits"]
) -> Float[Array, "fits 5"]:
    sizes, tokens, _ = cells
    residual, shares = _residual(now, cells)
    slopes = np.stack([*shares, -shares[0] * sizes, -shares[1] * tokens], -1)  # [fits, cells, 5]
    # Huber's loss as least squares whose weights fall where the residual is large.
    pull = np.minimum(1.0, HUBER_DELTA / np.maximum(np.abs(residual), 1e-300))[..., None] * slopes
    curvature = np.swapaxes(pull, 1, 2) @ slopes
    diagonal = np.arange(5)
    curvature[:, diagonal, diagonal] *= 1 + damping[:, None]
    curvature[:, diagonal, diagonal] += 1e-12
    gradient = np.swapaxes(pull, 1, 2) @ residual[..., None]
    return np.clip(-np.linalg.solve(curvature, gradient)[..., 0], -1, 1)


def huber_cost(now: Float[Array, "fits 5"], cells: Float[Array, "3 fits cells"]) -> Float[Array, " fits"]:
    """Huber's loss of the differences of ln L, summed over cells."""
    size = np.abs(_residual(now, cells)[0])
    return np.where(size < HUBER_DELTA, size**2 / 2, HUBER_DELTA * (size - HUBER_DELTA / 2)).sum(1)


def _residual(
    now: Float[Array, "fits 5"], cells: Float[Array, "3 fits cells"]
) -> tuple[Float[Array, "fits cells"], Float[Array, "3 fits cells"]]:
    """ln of the law minus ln of the loss, and the share that each of the law's three terms has in it."""
    sizes, tokens, loss = cells
    a, b, e, alpha, beta = (now[:, place, None] for place in range(5))
    terms = np.stack([a - alpha * sizes, b - beta * tokens, np.broadcast_to(e, sizes.shape)])
    parts = np.exp(terms)
    total = parts.sum(0)
    return np.log(total) - loss, parts / total
