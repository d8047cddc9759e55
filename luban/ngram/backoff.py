"""A back-off model of token ids that can be followed: which contexts stand before a token, and what they say next.

All n-grams of one order stand in one sorted array of numbers, context * symbols + last token, where a context is
the index of its own n-gram one order below. So a step to the next token is one search per order, for all places of
all rows at once, and what follows a context stands together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from luban.errors import DataError
from luban.ngram.kneser_ney import IMPOSSIBLE, Grams

ABSENT, UNSEEN = -1, -2
"""In place of a context's index: so many tokens do not stand there (a text's start, padding); or never stood so."""
NATS = math.log(10)
"""Nats in a unit of log10."""


@dataclass(frozen=True)
class Longer:
    """The n-grams of one order above 1, sorted by context, then by last token."""

    keys: (
        np.ndarray
    )  # int64 [n-grams]: the context's index one order below, times the symbols, plus the last token
    logp: np.ndarray  # float32 [n-grams], nats
    backoff: np.ndarray  # float32 [n-grams], nats; empty for the highest order


@dataclass(frozen=True)
class Backoff:
    """A model of `vocab` tokens; one more symbol, `start`, stands before a text and is never predicted."""

    single: np.ndarray  # float32 [vocab + 1, 2]: each symbol's log-probability and back-off weight, nats
    longer: Sequence[Longer]  # of orders 2, 3, ...
    skips: bool = False
    """A context gives what it has to spare to all tokens alike, not to the shorter context (add-k)."""

    @property
    def order(self) -> int:
        return 1 + len(self.longer)

    @property
    def vocab(self) -> int:
        return len(self.single) - 1

    @property
    def start(self) -> int:
        return self.vocab

    def follow(
        self, symbols: np.ndarray, before: np.ndarray | None = None, begins: np.ndarray | None = None
    ) -> np.ndarray:
        """Where each place stands: int64 [rows, seq, order], of the last m tokens the index among the m-grams.

        `symbols` [rows, seq] are tokens, `start` where a text begins, ABSENT at padding; `before` [rows, order]
        is where the place before them stands; `begins` is True where what came before is to be forgotten.
        """
        states = np.full((*symbols.shape, self.order), ABSENT, np.int64)
        states[..., 0] = 0
        states[..., 1:2] = symbols[..., None]
        no_token = (symbols < 0) | (symbols == self.start)  # nothing stands before these
        for m in range(2, self.order):
            contexts = np.full(symbols.shape, ABSENT, np.int64)
            contexts[:, 1:] = states[:, :-1, m - 1]
            if before is not None:
                contexts[:, 0] = before[:, m - 1]
            if begins is not None:
                contexts[begins] = ABSENT
            found = self._find(m, contexts, symbols)
            states[..., m] = np.where(no_token, ABSENT, found)
        return states

    def score(self, states: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """The log-probability, nats, of each of `targets` [...] after its place in `states` [..., order]."""
        found = self.single[targets, 0]
        for m in range(1, self.order):
            contexts = states[..., m]
            known = contexts >= 0
            found[known] = self._weights(m)[contexts[known]] + (self._uniform if self.skips else found[known])
            at = self._find(m + 1, contexts, targets)
            found[at >= 0] = self.longer[m - 1].logp[at[at >= 0]]
            if self.skips:
                found[contexts == UNSEEN] = self._uniform
        return np.maximum(found, IMPOSSIBLE * NATS, dtype=np.float32)

    def spread(self, states: np.ndarray) -> np.ndarray:
        """The log-probabilities, nats, of all tokens after each place: [places, order] to float32 [places, vocab]."""
        found = np.repeat(self.single[None, :-1, 0], len(states), 0)
        for m in range(1, self.order):
            contexts = states[:, m]
            known = np.flatnonzero(contexts >= 0)
            weights = self._weights(m)[contexts[known], None]
            found[known] = weights + (self._uniform if self.skips else found[known])
            rows, at = self._following(m, contexts[known])
            longer = self.longer[m - 1]
            found[known[rows], longer.keys[at] % len(self.single)] = longer.logp[at]
            if self.skips:
                found[contexts == UNSEEN] = self._uniform
        return np.maximum(found, IMPOSSIBLE * NATS, dtype=np.float32)

    def grams(self) -> list[Grams]:
        """All n-grams, by their symbols."""
        ids = np.arange(len(self.single), dtype=np.uint32)[:, None]
        made = [Grams(ids, *(np.ascontiguousarray(column) / np.float32(NATS) for column in self.single.T))]
        for longer in self.longer:
            contexts, last = np.divmod(longer.keys, len(self.single))
            ids = np.column_stack([ids[contexts], last.astype(np.uint32)])
            backoff = longer.backoff if len(longer.backoff) else np.zeros(len(ids), np.float32)
            made.append(Grams(ids, longer.logp / np.float32(NATS), backoff / np.float32(NATS)))
        return made

    @property
    def _uniform(self) -> np.float32:
        return np.float32(-math.log(self.vocab))

    def _weights(self, m: int) -> np.ndarray:
        """The back-off weights of contexts of `m` tokens."""
        return self.single[:, 1] if m == 1 else self.longer[m - 2].backoff

    def _find(self, n: int, contexts: np.ndarray, last: np.ndarray) -> np.ndarray:
        """The index of each n-gram; what `contexts` says where there is none, UNSEEN where only it is missing."""
        found, known = contexts.copy(), contexts >= 0
        wanted = contexts[known] * len(self.single) + last[known]
        found[known] = _places(self.longer[n - 2].keys, wanted)
        return found

    def _following(self, m: int, contexts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All n-grams that begin with one of `contexts` of `m` tokens: which of them it is, and the n-gram's index."""
        symbols = len(self.single)
        begin, end = (np.searchsorted(self.longer[m - 1].keys, (contexts + k) * symbols) for k in (0, 1))
        counts = end - begin
        rows = np.repeat(np.arange(len(contexts)), counts)
        return rows, np.arange(len(rows)) + np.repeat(begin - np.cumsum(counts) + counts, counts)


def table_of(grams: list[Grams], vocab: int, *, symbols: np.ndarray, skips: bool = False) -> Backoff:
    """The model of `grams`, which are taken off the list one order at a time; `symbols` gives each id's symbol.

    Raises DataError for an n-gram that stands there twice, or whose context is not among those of the order below.
    """
    single = np.zeros((vocab + 1, 2), np.float32)
    single[:, 0] = IMPOSSIBLE * NATS
    words = grams.pop(0)
    single[symbols[words.ids[:, 0]]] = np.stack([words.logp, words.backoff], 1) * np.float32(NATS)
    longer: list[Longer] = []
    place = symbols[words.ids[:, 0]]  # of each n-gram one order below
    while grams:
        order = grams.pop(0)
        known = order.contexts is not None
        contexts = place[order.contexts] if known else _contexts(order.ids, symbols, longer, base=vocab + 1)
        keys = contexts * (vocab + 1) + symbols[order.ids[:, -1]]
        rank = np.argsort(keys)
        if known and grams:
            place = np.empty(len(rank), np.int64)
            place[rank] = np.arange(len(rank))
        keys = keys[rank]
        if (keys[1:] == keys[:-1]).any():
            raise DataError(f"the model has the same {len(longer) + 2}-gram twice")
        backoff = order.backoff[rank] * np.float32(NATS) if grams else np.zeros(0, np.float32)
        longer.append(Longer(keys, order.logp[rank] * np.float32(NATS), backoff))
    return Backoff(single, longer, skips=skips)


def _contexts(ids: np.ndarray, symbols: np.ndarray, longer: Sequence[Longer], *, base: int) -> np.ndarray:
    """Where the context of each n-gram [n-grams, n] stands among those of one order below."""
    contexts = symbols[ids[:, 0]]
    for column, shorter in enumerate(longer, 1):
        contexts = _places(shorter.keys, contexts * base + symbols[ids[:, column]])
        if (contexts < 0).any():
            n = ids.shape[1]
            raise DataError(
                f"the model has a {n}-gram, but not the {column + 1}-gram it begins with",
                hint="a model needs the contexts of all its n-grams",
            )
    return contexts


def _places(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each of `wanted` stands in the sorted `keys`; UNSEEN if it does not."""
    if not len(keys):
        return np.full(wanted.shape, UNSEEN, np.int64)
    at = np.searchsorted(keys, wanted)
    at[at == len(keys)] = 0
    at[keys[at] != wanted] = UNSEEN
    return at
