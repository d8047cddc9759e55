"""Models of small texts, for tests."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from luban.data.step import Packed
from luban.ngram.counts import Counter
from luban.ngram.kneser_ney import Discounts, Grams, estimate
from luban.ngram.model import NgramModel, build
from luban.ngram.vocabulary import Vocabulary


@dataclass(frozen=True)
class Trained:
    """All that training gives."""

    grams: list[Grams]
    discounts: list[Discounts]
    letters: np.ndarray
    ends: np.ndarray
    model: NgramModel

    def spelled(self) -> dict[tuple[str, ...], tuple[float, float]]:
        """(log10 p, log10 back-off) by n-gram of words."""
        begins = [0, *self.ends[:-1]]
        words = [self.letters[a:b].tobytes().decode() for a, b in zip(begins, self.ends, strict=True)]
        return {
            tuple(words[id_] for id_ in gram): (float(logp), float(backoff))
            for order in self.grams
            for gram, logp, backoff in zip(order.ids, order.logp, order.backoff, strict=True)
        }


def train(
    texts: Sequence[str], *, order: int = 3, prune: Sequence[int] = (0,), memory: int = 1 << 24, pack: int = 0
) -> Trained:
    """A model of words between spaces, as they stand; `pack` texts are added at a time (0: all)."""
    vocabulary = Vocabulary()
    with tempfile.TemporaryDirectory() as folder:
        counter = Counter(order, folder=Path(folder), memory=memory)
        for begin in range(0, len(texts), pack or max(len(texts), 1)):
            some = Packed.of(texts[begin : begin + (pack or len(texts))])
            counter.add(vocabulary.encode(some, words="spaces", normalise=False))
        grams, discounts = estimate(counter, words=len(vocabulary), prune=prune)
    letters, ends = vocabulary.spelling()
    model = build(grams, letters, ends, words="spaces", normalise=False)
    return Trained(grams, discounts, letters, ends, model)
