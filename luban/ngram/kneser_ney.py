"""Interpolated modified Kneser-Ney: from counts to the probabilities of a back-off model.

A word is trusted by how many different words it was seen after, not by how often. Each order takes a little off
every count (three sizes of discount) and gives it to the order below; the lowest shares with all words alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from luban.errors import ConfigError
from luban.ngram.counts import END, START, Counter, Order, contexts, unpack

FALLBACK = (0.5, 1.0, 1.5)
"""The discounts of an order whose counts of counts allow no estimate (a tiny or repeated text)."""
BLOCK = 1 << 22
NOTHING = np.zeros(0, np.uint32)
IMPOSSIBLE = -99.0
"""The log10 of 0, as ARPA files write it."""


@dataclass(frozen=True)
class Grams:
    """The n-grams of one order with their log10 probabilities and back-off weights."""

    ids: np.ndarray  # uint32 [n-grams, n], first word first
    logp: np.ndarray  # float32 [n-grams]
    backoff: np.ndarray  # float32 [n-grams]; 0 where nothing follows


@dataclass(frozen=True)
class Discounts:
    """What an order takes off counts of 1, 2, and 3 or more."""

    values: tuple[float, float, float]
    estimated: bool
    """False: `FALLBACK`, for want of data."""


def estimate(
    counter: Counter, *, words: int, prune: Sequence[int] = (0,)
) -> tuple[list[Grams], list[Discounts]]:
    """A model of what was counted, over ids 1 to `words` + 3 (every word must have occurred).

    An n-gram that occurred at most `prune[n - 1]` times is left out (the last number goes for all higher
    orders) and its probability goes to the back-off. Each context's probabilities sum to 1, unknown words
    included and the start of a sentence not.

    Source: Chen and Goodman 1998, section 3 and equation 26; n-grams after <s> keep their counts, pruned mass
    and the unknown word as in Heafield et al. 2013 (lmplz).
    """
    limits = check_prune(prune, counter.order)
    keys, orders = counter.orders()
    _spread_words(keys, orders, words + END)
    discounts = [discounts_of(order.adjusted) for order in orders]
    grams: list[Grams] = []
    kept = np.ones(1, bool)
    shorter = np.full(1, 1 / (words + END - 1))  # knowing nothing: all ids alike but START
    for n, (discount, limit) in enumerate(zip(discounts, limits, strict=True), 1):
        order = orders[n - 1]
        before, kept = kept, (order.occurrences > limit) | (n == 1)
        context = _contexts_of(keys, n, orders)
        total, freed = _shares(order, kept, context, discount, count=len(shorter) if n > 1 else 1)
        backoff = np.divide(freed, total, out=np.ones_like(freed), where=total > 0)
        if n > 1:
            grams[-1] = replace(grams[-1], backoff=_log10(backoff[before]))
        shorter = _interpolate(order, context, discount, backoff, total, shorter)
        if n == 1:
            shorter[START - 1] = 0.0
        ids = _ids_of(keys, n, order, kept)
        grams.append(Grams(ids, _log10(shorter[kept]), np.zeros(len(ids), np.float32)))
        orders[n - 1] = Order(order.rows, NOTHING, NOTHING, NOTHING)  # gives memory back
    return grams, discounts


def check_prune(prune: Sequence[int], order: int) -> list[int]:
    """One number per order; raises ConfigError unless they never fall and begin with 0."""
    limits = [*prune, *[prune[-1]] * order][:order] if prune else [0] * order
    if limits[0] != 0 or sorted(limits) != limits:
        raise ConfigError(
            f"setting 'prune' is {list(prune)}: it begins with 0 (no word is left out) and never falls",
            hint="--prune 0 0 1",
        )
    return limits


def discounts_of(adjusted: np.ndarray) -> Discounts:
    """Chen and Goodman's equation 26 from how many n-grams have adjusted counts of 1, 2, 3 and 4."""
    n1, n2, n3, n4 = (int((adjusted == count).sum()) for count in (1, 2, 3, 4))
    if not (n1 and n2 and n3):
        return Discounts(FALLBACK, estimated=False)
    y = n1 / (n1 + 2 * n2)
    values = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    if any(not 0 <= value <= count for count, value in enumerate(values, 1)):
        return Discounts(FALLBACK, estimated=False)
    return Discounts(values, estimated=True)


def _spread_words(keys: np.ndarray, orders: list[Order], size: int) -> None:
    """Index the unigrams by id - 1, with count 0 for those that no sentence holds."""
    seen = unpack(keys, 1, orders[0].rows)[:, 0] - 1
    dense = {name: np.zeros(size, np.uint32) for name in ("occurrences", "adjusted")}
    for name, counts in dense.items():
        counts[seen] = getattr(orders[0], name)
    nothing = np.zeros(size, np.uint32)
    orders[0] = Order(nothing, dense["occurrences"], dense["adjusted"], nothing)
    if len(orders) > 1:
        orders[1] = replace(orders[1], suffixes=seen[orders[1].suffixes])


def _contexts_of(keys: np.ndarray, n: int, orders: list[Order]) -> np.ndarray:
    """Each n-gram's context as an index of the order below."""
    if n == 1:
        return orders[0].suffixes
    if n == 2:
        return unpack(keys, 2, orders[1].rows)[:, 0] - 1
    return contexts(keys, n, orders[n - 1], orders[n - 2])


def _ids_of(keys: np.ndarray, n: int, order: Order, kept: np.ndarray) -> np.ndarray:
    if n == 1:
        return np.arange(1, len(kept) + 1, dtype=np.uint32)[:, None]
    return unpack(keys, n, order.rows[kept])


def _shares(
    order: Order, kept: np.ndarray, context: np.ndarray, discount: Discounts, *, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Per context, the sum of its counts, and how much of it goes to the order below."""
    total, freed = np.zeros(count), np.zeros(count)
    for rows in _blocks(len(context)):
        counts = order.adjusted[rows].astype(np.float64)
        np.add.at(total, context[rows], counts)
        np.add.at(freed, context[rows], np.where(kept[rows], _taken(counts, discount), counts))
    return total, freed


def _interpolate(
    order: Order,
    context: np.ndarray,
    discount: Discounts,
    backoff: np.ndarray,
    total: np.ndarray,
    shorter: np.ndarray,
) -> np.ndarray:
    """Each n-gram's probability: its own discounted share, and its context's back-off times its suffix's."""
    probability = np.empty(len(context))
    for rows in _blocks(len(context)):
        counts, at = order.adjusted[rows].astype(np.float64), context[rows]
        own = (counts - _taken(counts, discount)) / total[at]
        probability[rows] = own + backoff[at] * shorter[order.suffixes[rows]]
    return probability


def _taken(counts: np.ndarray, discount: Discounts) -> np.ndarray:
    return np.array([0.0, *discount.values])[np.minimum(counts, 3).astype(np.intp)]


def _log10(values: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.maximum(np.log10(values), IMPOSSIBLE).astype(np.float32)


def _blocks(size: int) -> Iterator[slice]:
    return (slice(begin, begin + BLOCK) for begin in range(0, size, BLOCK))
