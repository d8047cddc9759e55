"""What came before Kneser-Ney: maximum likelihood, add-k, and Katz's back-off with Good and Turing's discounts.

All start from how often an n-gram occurred. They differ in what they keep for n-grams that never did: nothing, the
same for each, or what the shorter context makes of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from luban.ngram.counts import END, START, Counter
from luban.ngram.kneser_ney import Grams, Level, contexts_of, log10, nothing, spread

TRUSTED = 5
"""Katz's k: an n-gram that occurred more often keeps its count."""
HALVED = 0.5
"""What is taken off a count where the counts of counts allow no estimate (a tiny or repeated text)."""
TINY = 1e-9


@dataclass(frozen=True)
class Seen:
    """The n-grams of one order, as a smoother is told of them."""

    counts: np.ndarray  # uint32 [n-grams]: occurrences; 0 only among single words
    contexts: np.ndarray  # uint32 [n-grams]: index of the n-gram without its last word, one order below
    shorter: np.ndarray  # float64 [n-grams]: probability, one order below, without the first word
    totals: np.ndarray  # float64 [contexts]: how often each context went on


Smoother = Callable[[Seen], tuple[np.ndarray, np.ndarray]]
"""Each n-gram's probability (float64), and the weight that each context gives to what it never saw."""


def estimate(counter: Counter, smooth: Smoother, *, words: int) -> list[Grams]:
    """A model of what was counted, over ids 1 to `words` + 3, with the probabilities of `smooth`; none is pruned."""
    counts = counter.counts()
    grams: list[Grams] = []
    below = nothing(1 / (words + END - 1))  # knowing nothing: all ids alike but START
    for n in range(1, counter.order + 1):
        order = counts.read(n, limit=0, occurrences=True)
        order = order if n > 1 else spread(order, words + END)
        contexts = contexts_of(order, n, below)
        size = len(below.probability)
        totals = np.bincount(contexts, weights=order.adjusted, minlength=size)
        probability, backoff = smooth(
            Seen(order.adjusted, contexts, below.probability[order.suffixes], totals)
        )
        if n == 1:
            probability[START - 1] = 0.0
        else:
            grams[-1] = replace(grams[-1], backoff=log10(backoff))
        ids = counts.ids(n, order.kept, last=1) if n > 1 else order.firsts[:, None]
        grams.append(Grams(ids, log10(probability), np.zeros(len(ids), np.float32), contexts))
        below = Level(order, contexts, probability, below=size)
    return grams


def maximum_likelihood(seen: Seen) -> tuple[np.ndarray, np.ndarray]:
    """c(hw) / c(h), and nothing for a word that was never seen after h; a context that was not is shortened."""
    found = seen.counts / np.maximum(seen.totals, 1)[seen.contexts]
    return found, np.where(seen.totals > 0, 0.0, 1.0)


def add_k(k: float, *, words: int) -> Smoother:
    """(c(hw) + k) / (c(h) + k V), V ids having a probability; what a context never saw is uniform, whatever is shorter.

    So the weights are not to be given to the order below, as an ARPA file would have it.

    Source: Lidstone 1920; k = 1 is Laplace's rule.
    """
    choices = words + END - 1

    def smooth(seen: Seen) -> tuple[np.ndarray, np.ndarray]:
        room = seen.totals + k * choices
        return (seen.counts + k) / room[seen.contexts], k * choices / room

    return smooth


@dataclass(frozen=True)
class Ratios:
    """What share of counts 1, 2, ... is kept; counts beyond them are trusted whole."""

    values: tuple[float, ...]
    estimated: bool
    """False: `HALVED`, for want of data."""


@dataclass(frozen=True)
class Katz:
    """Good and Turing's discounts, and what they take given to the shorter context's other words.

    A context none of whose counts is discounted counts as if it had gone on once more, or it would leave nothing.

    Source: Katz 1987, as in Chen and Goodman 1998, section 2.5; the rule for such contexts is SRILM's.
    """

    discounts: list[Ratios] = field(default_factory=list)
    """Those of each order that was smoothed."""

    def __call__(self, seen: Seen) -> tuple[np.ndarray, np.ndarray]:
        self.discounts.append(good_turing(seen.counts))
        keeps = np.array([0.0, *self.discounts[-1].values, 1.0])
        own = seen.counts * keeps[np.minimum(seen.counts, len(keeps) - 1)]
        known = np.where(seen.counts > 0, seen.shorter, 0.0)
        size = len(seen.totals)
        given = np.bincount(seen.contexts, weights=own, minlength=size)
        unseen = 1 - np.bincount(seen.contexts, weights=known, minlength=size)
        whole = unseen <= TINY  # every word was seen here: nobody is left to give to
        own = np.where(whole[seen.contexts], seen.counts, own)
        given = np.where(whole, seen.totals, given)
        totals = seen.totals + ((given >= seen.totals - TINY) & ~whole)
        weights = np.where(whole, 0.0, (1 - given / totals) / np.where(whole, 1.0, unseen))
        probability = own / totals[seen.contexts]
        return np.where(seen.counts > 0, probability, weights[seen.contexts] * seen.shorter), weights


def good_turing(counts: np.ndarray) -> Ratios:
    """Shares of the counts 1 to k that are kept, from how many n-grams have each; k is `TRUSTED`, or as far as it goes.

    d_r = (r* / r - m) / (1 - m) with r* = (r + 1) n_{r+1} / n_r and m = (k + 1) n_{k+1} / n_1.
    """
    n = np.bincount(np.minimum(counts, TRUSTED + 2), minlength=TRUSTED + 3).astype(np.float64)
    for k in range(TRUSTED, 0, -1):
        if not n[1 : k + 2].all() or (k + 1) * n[k + 1] >= n[1]:
            continue
        r = np.arange(1, k + 1)
        common = (k + 1) * n[k + 1] / n[1]
        keeps = ((r + 1) * n[r + 1] / (r * n[r]) - common) / (1 - common)
        if ((keeps > 0) & (keeps < 1)).all():
            return Ratios(tuple(keeps.tolist()), estimated=True)
    return Ratios(tuple((r - HALVED) / r for r in range(1, TRUSTED + 1)), estimated=False)
