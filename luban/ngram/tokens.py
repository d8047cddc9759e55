"""n-grams of token ids: counted as the words of sentences that are whole texts, smoothed, and made a table.

A text's last token, its end, is the counter's end of a sentence, and what stands before a text its start. All other
tokens are words, so the probabilities of all `vocab` ids sum to 1 after any context.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from luban.errors import ConfigError, DataError
from luban.ngram.backoff import Backoff, table_of
from luban.ngram.counts import END, FIRST, START, UNKNOWN, Counter
from luban.ngram.kneser_ney import estimate as kneser_ney
from luban.ngram.settings import Smoothing
from luban.ngram.smoothing import Katz, add_k, estimate, maximum_likelihood


class TokenCounter:
    """Counts n-grams of texts over `vocab` ids, each text's last one being `eos`; see `Counter`."""

    def __init__(self, order: int, *, vocab: int, eos: int, folder: Path, memory: int = 1 << 30) -> None:
        if not 0 <= eos < vocab or vocab < 3:
            raise ConfigError(
                f"the id {eos} that ends texts is not one of {vocab}, of which there are at least 3"
            )
        self.vocab, self._counter = vocab, Counter(order, folder=folder, memory=memory)
        self._ids = counter_ids(vocab, eos)

    def add(self, texts: Sequence[np.ndarray]) -> None:
        """Count the n-grams of `texts`, without the token that stands before each and with `eos` after it."""
        if texts:
            self._counter.add(self._ids[np.concatenate(texts)])

    def table(self, smoothing: Smoothing) -> tuple[Backoff, list[Any]]:
        """The model of what was counted, and the discounts per order where it has any; only once.

        Raises DataError if nothing was counted.
        """
        if not self._counter.ids:
            raise DataError("there is no text to count n-grams in")
        grams, discounts = self._smoothed(smoothing)
        symbols = symbols_of(self._ids)
        return table_of(grams, self.vocab, symbols=symbols, skips=smoothing.estimator == "add-k"), discounts

    def _smoothed(self, smoothing: Smoothing) -> tuple[list[Any], list[Any]]:
        words = self.vocab - 2  # UNKNOWN and END stand for a token each, too
        if smoothing.estimator == "kneser-ney":
            return kneser_ney(self._counter, words=words, prune=smoothing.prune, contexts=True)
        if smoothing.estimator == "katz":
            katz = Katz()
            return estimate(self._counter, katz, words=words), katz.discounts
        smooth = add_k(smoothing.k, words=words) if smoothing.estimator == "add-k" else maximum_likelihood
        return estimate(self._counter, smooth, words=words), []


def counter_ids(vocab: int, eos: int) -> np.ndarray:
    """The counter's id of each token (uint32): all of them but START, END for `eos`."""
    others = np.array([UNKNOWN, *range(FIRST, FIRST + vocab - 2)], np.uint32)
    return np.insert(others, eos, END)


def symbols_of(ids: np.ndarray) -> np.ndarray:
    """The symbol (int64) of each id of the counter: the token it stands for, or the start of a text."""
    symbols = np.zeros(len(ids) + 2, np.int64)
    symbols[ids] = np.arange(len(ids))
    symbols[START] = len(ids)
    return symbols
