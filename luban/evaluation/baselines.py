"""What must be beaten: uniform, unigram and bigram over the model's own tokens, and gzip over the bytes.

The counts come from the training documents, the bits from the held-out ones, exactly as for the model.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Sequence

import numpy as np

from luban.data.document import Document
from luban.errors import DataError
from luban.evaluation.bits import Bits, bits
from luban.tokenizers.base import Tokenizer

Ids = np.ndarray


def baseline_bits(
    tokenizer: Tokenizer, train: Sequence[Document], held_out: Sequence[Document]
) -> dict[str, Bits]:
    """Bits per byte of each baseline on `held_out`, by name."""
    if not train:
        raise DataError("no training document to count n-grams in", where="setting 'baselines'")
    counts = BigramCounts(_with_start(tokenizer, train), vocab=tokenizer.vocab_size)
    rows = _with_start(tokenizer, held_out)
    sizes = [len(document.text.encode()) for document in held_out]
    tokens = sum(len(row) - 1 for row in rows)
    uniform = [(len(row) - 1) * math.log(tokenizer.vocab_size) for row in rows]
    unigram = [float(-np.log(counts.unigram[row[1:]]).sum()) for row in rows]
    bigram = [float(-np.log(counts.bigram(row[:-1], row[1:])).sum()) for row in rows]
    whole = "\n".join(document.text for document in held_out).encode()
    packed = len(gzip.compress(whole, 9)) * 8 * math.log(2)
    return {
        "uniform": bits(nats=uniform, sizes=sizes, tokens=tokens),
        "unigram": bits(nats=unigram, sizes=sizes, tokens=tokens),
        "bigram": bits(nats=bigram, sizes=sizes, tokens=tokens),
        "gzip": bits(nats=[packed], sizes=[sum(sizes)], tokens=0),
    }


class BigramCounts:
    """Unigram with one added to every count; bigram interpolated with it by Witten and Bell's weights.

    p(w | h) = (c(h w) + t(h) p(w)) / (c(h) + t(h)), t(h) the number of different words seen after h.
    Source: Witten and Bell 1991; Chen and Goodman 1998, section 2.4.
    """

    def __init__(self, rows: Sequence[Ids], *, vocab: int) -> None:
        self.vocab = vocab
        words = np.concatenate([row[1:] for row in rows])
        histories = np.concatenate([row[:-1] for row in rows])
        self.unigram = (np.bincount(words, minlength=vocab) + 1) / (len(words) + vocab)
        self.pairs, self.counts = np.unique(histories * vocab + words, return_counts=True)
        self.followed = np.bincount(histories, minlength=vocab)
        self.kinds = np.bincount(self.pairs // vocab, minlength=vocab)

    def bigram(self, histories: Ids, words: Ids) -> np.ndarray:
        """Probability of each of `words` after the one of `histories` at the same place."""
        pairs = histories * self.vocab + words
        place = np.searchsorted(self.pairs, pairs).clip(max=len(self.pairs) - 1)
        seen = np.where(self.pairs[place] == pairs, self.counts[place], 0)
        followed, kinds = self.followed[histories], self.kinds[histories]
        mixed = (seen + kinds * self.unigram[words]) / np.maximum(followed + kinds, 1)
        return np.where(followed > 0, mixed, self.unigram[words])


def _with_start(tokenizer: Tokenizer, documents: Sequence[Document]) -> list[Ids]:
    """Ids of each document behind the token that separates documents, as the model sees them."""
    start = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id or 0
    encoded = tokenizer.encode_batch([document.text for document in documents])
    return [np.asarray([start, *ids], dtype=np.int64) for ids in encoded]
