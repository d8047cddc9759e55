"""Held-out bits per byte: comparable between models whatever their tokenizers.

Every document is scored from its own beginning; bits are summed over all of them and divided by the bytes of
their UTF-8 text. The interval is a bootstrap over documents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from luban.data.document import Document
from luban.lm import LM

RESAMPLES = 500


@dataclass(frozen=True, kw_only=True)
class Bits:
    """`per_byte` with its 95 % interval, and perplexity per token where there are tokens."""

    per_byte: float
    low: float
    high: float
    tokens: int
    bytes: int

    @property
    def perplexity(self) -> float:
        return 2 ** (self.per_byte * self.bytes / self.tokens) if self.tokens else math.nan


def model_bits(lm: LM, documents: Sequence[Document]) -> Bits:
    """What `lm` needs to encode `documents`."""
    scores = lm.score([("", document.text) for document in documents])
    return bits(
        nats=[score.total * -1 for score in scores],
        sizes=[len(document.text.encode()) for document in documents],
        tokens=sum(len(score.logps) for score in scores),
    )


def bits(*, nats: Sequence[float], sizes: Sequence[int], tokens: int) -> Bits:
    """Sum `nats` over documents of `sizes` bytes and resample documents for the interval."""
    cost, size = np.asarray(nats) / math.log(2), np.asarray(sizes, dtype=np.float64)
    picks = np.random.default_rng(0).integers(len(size), size=(RESAMPLES, len(size)))
    low, high = np.percentile(cost[picks].sum(1) / size[picks].sum(1), [2.5, 97.5])
    return Bits(
        per_byte=float(cost.sum() / size.sum()),
        low=float(low),
        high=float(high),
        tokens=tokens,
        bytes=int(size.sum()),
    )
