"""Interpolated modified Kneser-Ney: from counts to the probabilities of a back-off model.

A word is trusted by how many different words it was seen after, not by how often. Each order takes a little off
every count (three sizes of discount) and gives it to the order below; the lowest shares with all words alike.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from luban.errors import ConfigError
from luban.native import load, pointer
from luban.ngram.counts import END, START, Counter, Order, find_contexts

FALLBACK = (0.5, 1.0, 1.5)
"""The discounts of an order whose counts of counts allow no estimate (a tiny or repeated text)."""
NOTHING = np.zeros(0, np.uint32)
IMPOSSIBLE = -99.0
"""The log10 of 0, as ARPA files write it."""


@dataclass(frozen=True)
class Grams:
    """The n-grams of one order with their log10 probabilities and back-off weights."""

    ids: (
        np.ndarray
    )  # uint32 [n-grams, n], first word first; [n-grams, 1] of last words where there are contexts
    logp: np.ndarray  # float32 [n-grams]
    backoff: np.ndarray  # float32 [n-grams]; 0 where nothing follows
    contexts: np.ndarray | None = None
    """uint32 [n-grams], if asked for: each one without its last word, as an index of the n-grams one order below."""


@dataclass(frozen=True)
class Discounts:
    """What an order takes off counts of 1, 2, and 3 or more."""

    values: tuple[float, float, float]
    estimated: bool
    """False: `FALLBACK`, for want of data."""


def estimate(
    counter: Counter, *, words: int, prune: Sequence[int] = (0,), contexts: bool = False
) -> tuple[list[Grams], list[Discounts]]:
    """A model of what was counted, over ids 1 to `words` + 3 (every word must have occurred).

    An n-gram that occurred at most `prune[n - 1]` times is left out (the last number goes for all higher
    orders) and its probability goes to the back-off. Each context's probabilities sum to 1, unknown words
    included and the start of a sentence not. With `contexts` the n-grams tell theirs.

    Source: Chen and Goodman 1998, section 3 and equation 26; n-grams after <s> keep their counts, pruned mass
    and the unknown word as in Heafield et al. 2013 (lmplz).
    """
    limits = check_prune(prune, counter.order)
    counts = counter.counts()
    grams: list[Grams] = []
    discounts: list[Discounts] = []
    shorter = nothing(1 / (words + END - 1))  # knowing nothing: all ids alike but START
    for n, limit in enumerate(limits, 1):
        order = counts.read(n, limit=limit) if n > 1 else spread(counts.read(1, limit=0), words + END)
        ids = counts.ids(n, order.kept, last=1 if contexts else n) if n > 1 else order.firsts[:, None]
        discounts.append(discounts_of(order.adjusted))
        found = contexts_of(order, n, shorter)
        told = contexts_among_kept(found, order, shorter) if contexts else None
        shorter = shorter.without_words()
        level, backoff = _build_on(shorter, order, found, discounts[-1], last=n == counter.order)
        if n == 1:
            level.probability[START - 1] = 0.0
        else:
            grams[-1] = replace(grams[-1], backoff=log10(backoff))
        logp = log10(level.probability[level.order.kept])
        grams.append(Grams(ids, logp, np.zeros(len(ids), np.float32), told))
        shorter = level
        del order, found, level  # gives memory back before the next order is read
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


@dataclass(frozen=True)
class Level:
    """What the next order builds on."""

    order: Order
    contexts: np.ndarray  # uint32 [n-grams]: index of each one's context in the order below
    probability: np.ndarray  # float64 [n-grams]
    below: int
    """How many n-grams the order below has."""

    def without_words(self) -> Level:
        """What is left of use when the contexts of the next order are found: it gives memory back."""
        kept = Order(NOTHING, NOTHING, NOTHING, self.order.kept)
        return replace(self, order=kept, contexts=NOTHING)


@dataclass(frozen=True)
class _Shares:
    """Of each context."""

    total: np.ndarray  # uint32 [contexts]: the sum of its counts
    backoff: np.ndarray  # float64 [contexts]: how much of it goes to the order below


def nothing(probability: float) -> Level:
    """The one n-gram of no word."""
    zero = np.zeros(1, np.uint32)
    return Level(Order(zero, zero, zero, np.ones(1, np.bool_)), zero, np.array([probability]), below=0)


def spread(words: Order, size: int) -> Order:
    """The unigrams at the index of their id - 1, with count 0 for those that no sentence holds; all are kept."""
    adjusted, ids = np.zeros(size, np.uint32), np.arange(1, size + 1, dtype=np.uint32)
    adjusted[words.firsts - 1] = words.adjusted
    return Order(ids, np.zeros(size, np.uint32), adjusted, np.ones(size, np.bool_))


def contexts_of(order: Order, n: int, shorter: Level) -> np.ndarray:
    """Each n-gram's context as an index of the order below."""
    if n == 1:
        return np.zeros(len(order.firsts), np.uint32)
    if n == 2:
        return order.firsts - np.uint32(1)
    return find_contexts(order, shorter.order, shorter.contexts, shorter.below)


def contexts_among_kept(contexts: np.ndarray, order: Order, shorter: Level) -> np.ndarray:
    """The contexts of the n-grams that are kept, as indices of the shorter ones that are."""
    if order.kept.all():  # then all shorter ones are, too
        return contexts
    return (np.cumsum(shorter.order.kept, dtype=np.uint32) - np.uint32(1))[contexts[order.kept]]


def _build_on(
    shorter: Level, order: Order, contexts: np.ndarray, discounts: Discounts, *, last: bool
) -> tuple[Level, np.ndarray]:
    """The level of `order`, of what is kept only if it is the last one, and the back-offs of the kept n-grams below."""
    shares = _share(order, contexts, discounts, count=len(shorter.probability))
    if last and not order.kept.all():
        order, contexts = order.only_kept(), contexts[order.kept]
    probability = _interpolate(order, contexts, discounts, shares, shorter.probability)
    level = Level(replace(order, adjusted=NOTHING), contexts, probability, below=len(shorter.probability))
    return level, shares.backoff[shorter.order.kept]


def _share(order: Order, contexts: np.ndarray, discounts: Discounts, *, count: int) -> _Shares:
    shares = _Shares(np.zeros(count, np.uint32), np.zeros(count))
    _kernel().share(
        pointer(order.adjusted, np.uint32),
        pointer(order.kept, np.bool_),
        pointer(contexts, np.uint32),
        ctypes.c_int64(len(contexts)),
        _taken(discounts),
        pointer(shares.total, np.uint32),
        pointer(shares.backoff, np.float64),
        ctypes.c_int64(count),
    )
    return shares


def _interpolate(
    order: Order, contexts: np.ndarray, discounts: Discounts, shares: _Shares, shorter: np.ndarray
) -> np.ndarray:
    """Each n-gram's probability: its own discounted share, and its context's back-off times its suffix's."""
    probability = np.empty(len(contexts))
    _kernel().interpolate(
        pointer(order.adjusted, np.uint32),
        pointer(contexts, np.uint32),
        pointer(order.suffixes, np.uint32),
        ctypes.c_int64(len(contexts)),
        _taken(discounts),
        pointer(shares.total, np.uint32),
        pointer(shares.backoff, np.float64),
        pointer(shorter, np.float64),
        pointer(probability, np.float64),
    )
    return probability


def _taken(discounts: Discounts) -> ctypes.c_void_p:
    """What counts of 0, 1, 2, and 3 or more lose."""
    return pointer(np.array([0.0, *discounts.values]), np.float64)


def log10(values: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.maximum(np.log10(values), IMPOSSIBLE).astype(np.float32)


def _kernel() -> ctypes.CDLL:
    return load(Path(__file__).with_name("kneser_ney.cpp"))
