"""What must be beaten: uniform, unigram, bigram and 5-gram over the model's own tokens, and gzip over the bytes.

The counts come from the training documents, the bits from the held-out ones, exactly as for the model.
"""

from __future__ import annotations

import gzip
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from luban.data.document import Document
from luban.errors import DataError
from luban.evaluation.bits import Bits, bits
from luban.ngram.settings import Smoothing
from luban.ngram.tokens import TokenCounter
from luban.tokenizers.base import Tokenizer

Ids = np.ndarray
LONGEST = 5


def baseline_bits(
    tokenizer: Tokenizer, train: Sequence[Document], held_out: Sequence[Document]
) -> dict[str, Bits]:
    """Bits per byte of each baseline on `held_out`, by name."""
    if not train:
        raise DataError("no training document to count n-grams in", where="setting 'baselines'")
    learned = _with_start(tokenizer, train)
    counts = BigramCounts(learned, vocab=tokenizer.vocab_size)
    rows = _with_start(tokenizer, held_out)
    sizes = [len(document.text.encode()) for document in held_out]
    tokens = sum(len(row) - 1 for row in rows)
    uniform = [(len(row) - 1) * math.log(tokenizer.vocab_size) for row in rows]
    unigram = [float(-np.log(counts.unigram[row[1:]]).sum()) for row in rows]
    bigram = [float(-np.log(counts.bigram(row[:-1], row[1:])).sum()) for row in rows]
    five_gram = kneser_ney_nats(learned, rows, vocab=tokenizer.vocab_size, eos=tokenizer.eos_id or 0)
    whole = "\n".join(document.text for document in held_out).encode()
    packed = len(gzip.compress(whole, 9)) * 8 * math.log(2)
    return {
        "uniform": bits(nats=uniform, sizes=sizes, tokens=tokens),
        "unigram": bits(nats=unigram, sizes=sizes, tokens=tokens),
        "bigram": bits(nats=bigram, sizes=sizes, tokens=tokens),
        f"{LONGEST}-gram": bits(nats=five_gram, sizes=sizes, tokens=tokens),
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


def kneser_ney_nats(learned: Sequence[Ids], rows: Sequence[Ids], *, vocab: int, eos: int) -> list[float]:
    """What each of `rows` costs a 5-gram model of `learned`, smoothed by interpolated modified Kneser-Ney.

    Each row begins with the token that stands before texts. Ends of texts (`eos`) are counted, but cost nothing here.
    """
    with tempfile.TemporaryDirectory() as folder:
        counter = TokenCounter(LONGEST, vocab=vocab, eos=eos, folder=Path(folder))
        counter.add([np.append(row[1:], eos) for row in learned])
        table, _ = counter.table(Smoothing())
    nats = []
    for row in rows:
        symbols = np.append(table.start, row[1:-1])[None]
        nats.append(-float(table.score(table.follow(symbols)[0], row[1:]).sum(dtype=np.float64)))
    return nats


def _with_start(tokenizer: Tokenizer, documents: Sequence[Document]) -> list[Ids]:
    """Ids of each document behind the token that separates documents, as the model sees them."""
    start = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id or 0
    encoded = tokenizer.encode_batch([document.text for document in documents])
    return [np.asarray([start, *ids], dtype=np.int64) for ids in encoded]
