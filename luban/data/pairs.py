"""A text and what it is turned into (its translation, say) as examples for an encoder-decoder.

An example is a row like any other: source, end token, target, end token, of which only the target is learnt. So
the loader and its exact resume serve pairs too; `training/answers.py` takes the two apart again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from luban.data.batch import IGNORED, Batch
from luban.data.conversations import read_conversations
from luban.data.loader import Loader
from luban.errors import DataError, TokenizerError
from luban.tokenizers.base import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two texts and the place they came from, for messages about them."""

    source: str
    target: str
    where: str


@dataclass(frozen=True, kw_only=True)
class PairExamples:
    """Pairs as ids and masks, and how many were left out because a side was too long."""

    pairs: list[Pair]
    examples: list[tuple[np.ndarray, np.ndarray]]
    too_long: int


def read_pairs(paths: Sequence[Path]) -> Iterator[Pair]:
    """The pairs in rows of {"source", "target"} or {"prompt", "completion"}, in files as `read_conversations` reads.

    Raises DataError naming file and line of a row that is no pair or has an empty side.
    """
    for path in paths:
        for row in read_conversations(path):
            if row.messages or not row.prompt.strip() or not row.completion.strip():
                what = "not a pair of two texts" if row.messages else "a side of the pair is empty"
                raise DataError(what, where=row.where, hint='rows with "source" and "target"')
            yield Pair(source=row.prompt, target=row.completion, where=row.where)


def to_examples(tokenizer: Tokenizer, pairs: Sequence[Pair], *, max_tokens: int) -> PairExamples:
    """The pairs whose sides have at most `max_tokens` each, end tokens included.

    A begin token stands before both sides where the vocabulary's models expect it. Raises TokenizerError if the
    tokenizer has no end token, DataError if no pair is left.
    """
    if tokenizer.eos_id is None:
        raise TokenizerError("an answer needs an end token, and the tokenizer has none")
    before = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
    sources, targets = (
        [[*before, *ids, tokenizer.eos_id] for ids in tokenizer.encode_batch(texts)]
        for texts in ([pair.source for pair in pairs], [pair.target for pair in pairs])
    )
    kept = [n for n in range(len(pairs)) if max(len(sources[n]), len(targets[n])) <= max_tokens]
    if not kept:
        raise DataError(f"none of {len(pairs)} pairs has at most {max_tokens} tokens on both sides")
    examples = [
        (
            np.array([*sources[n], *targets[n]], dtype=np.int32),
            np.repeat([False, True], [len(sources[n]), len(targets[n])]),
        )
        for n in kept
    ]
    return PairExamples(pairs=[pairs[n] for n in kept], examples=examples, too_long=len(pairs) - len(kept))


class PairLoader(Loader):
    """A loader of rows with one pair each whose batches are no wider than they must be."""

    def __next__(self) -> Batch:
        return narrowed(super().__next__())


def narrowed(batch: Batch) -> Batch:
    """The batch up to its last target: what stands behind it is padding in every row."""
    columns = (batch.targets != IGNORED).any(0).nonzero()
    width = int(columns.max()) + 1 if len(columns) else 1
    names = ("tokens", "targets", "positions", "documents")
    return dataclasses.replace(batch, **{name: getattr(batch, name)[:, :width] for name in names})
