"""Texts as rows of ids for a model with a score, and the class as the target of the place where the score is read.

    decoder   [bos] A             [bos] A separator B        read at the last token (or, to compare, the first)
    encoder   [CLS] A [SEP]       [CLS] A [SEP] B [SEP]      read at the first

So the loader's packing, its exact resume and its counts serve classes too: all other places have no target.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from luban.data.batch import IGNORED, Batch
from luban.data.loader import Loader, Targeted
from luban.errors import ConfigError, DataError, TokenizerError
from luban.models.headed import HeadConfig
from luban.tokenizers.files import FileTokenizer
from luban.tuning.labelled import Labelled

MOST_SEVERAL = 62
"""Labels of which any number may be right: they are the bits of a target."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Which ids stand around one text or two, and how many there may be."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    max_tokens: int
    encoder: bool
    first: bool
    """Whether the score is read at the first token."""

    @classmethod
    def of(cls, tokenizer: FileTokenizer, config: HeadConfig, *, separator: str, max_tokens: int) -> Self:
        """The layout for a model; raises TokenizerError where an encoder's marks are missing."""
        if not config.encoder:
            begins = tokenizer.adds_bos and tokenizer.bos_id is not None
            before = (tokenizer.bos_id,) if begins and tokenizer.bos_id is not None else ()
            between, after = tuple(tokenizer.encode(separator)), ()
        else:
            if tokenizer.cls_id is None or tokenizer.sep_id is None:
                raise TokenizerError("an encoder reads [CLS] and [SEP], and the tokenizer has no such tokens")
            marks = (
                2 if config.body.model_type == "roberta" else 1
            )  # Liu et al. 2019 end a text and begin the next
            before, between, after = (tokenizer.cls_id,), (tokenizer.sep_id,) * marks, (tokenizer.sep_id,)
        made = cls(
            before=before,
            between=between,
            after=after,
            max_tokens=max_tokens,
            encoder=config.encoder,
            first=config.encoder or config.pooling == "first",
        )
        if made.room(pair=True) < 2:
            what = f"rows of {max_tokens} tokens have no room for a text"
            raise ConfigError(what, where="setting 'loop.max_length'")
        return made

    def room(self, *, pair: bool) -> int:
        """How many tokens the text, or both, may have."""
        return self.max_tokens - len(self.before) - len(self.after) - (len(self.between) if pair else 0)

    def row(self, first: list[int], second: list[int] | None) -> list[int]:
        """The row of a text, or of two, of which the longer one is cut first."""
        room = self.room(pair=second is not None)
        if second is None:
            return [*self.before, *first[:room], *self.after]
        kept = max(room - len(second), min(len(first), (room + 1) // 2))
        first = first[:kept]
        return [*self.before, *first, *self.between, *second[: room - len(first)], *self.after]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Texts as ids, and how many were cut."""

    ids: list[np.ndarray]
    truncated: int


def encode_rows(tokenizer: FileTokenizer, rows: Sequence[Labelled], layout: Layout) -> Rows:
    """Each row's ids; raises DataError naming a text that has no tokens."""
    first = tokenizer.encode_batch([row.text for row in rows])
    second: Sequence[list[int] | None] = [None] * len(rows)
    if rows and rows[0].second is not None:
        second = tokenizer.encode_batch([row.second or "" for row in rows])
    ids, truncated = [], 0
    for row, one, two in zip(rows, first, second, strict=True):
        if not one or (two is not None and not two):
            raise DataError("the tokenizer makes no token of a text", where=row.where)
        truncated += len(one) + len(two or ()) > layout.room(pair=two is not None)
        ids.append(np.array(layout.row(one, two), dtype=np.int32))
    return Rows(ids=ids, truncated=truncated)


def codes_of(truth: Int[np.ndarray, "rows labels"], *, multi_label: bool) -> Int[np.ndarray, " rows"]:
    """Each row's labels as one number: its label's, or bits; raises DataError for more labels than bits."""
    if not multi_label:
        return truth.argmax(1)
    if truth.shape[1] > MOST_SEVERAL:
        raise DataError(
            f"{truth.shape[1]} labels are more than the {MOST_SEVERAL} of which several may be right"
        )
    return truth @ (1 << np.arange(truth.shape[1]))


def truth_in(codes: Int[Tensor, " texts"], labels: int, *, multi_label: bool) -> Int[Tensor, "texts labels"]:
    """0 and 1 for each label; the inverse of `codes_of`."""
    numbers = torch.arange(labels, device=codes.device)
    return (codes[:, None] >> numbers & 1) if multi_label else (codes[:, None] == numbers).long()


def targeted(ids: np.ndarray, code: int, *, first: bool) -> Targeted:
    """A row that learns its code where the model is read."""
    targets = np.full(len(ids), IGNORED, np.int64)
    targets[0 if first else -1] = code
    return Targeted(ids, targets)


def real(batch: Batch) -> Bool[Tensor, "batch seq"]:
    """Where the tokens of texts stand, and not padding: every text has a target, and padding has none."""
    last = batch.documents.masked_fill(batch.targets == IGNORED, -1).amax(1, keepdim=True)
    return batch.documents <= last


def segments_in(batch: Batch, separator: int) -> Int[Tensor, "batch seq"]:
    """1 for the second text of each pair, from after the first `separator` on; else 0."""
    ends = batch.tokens == separator
    before = ends.cumsum(1) - ends.long()
    at_start = (
        (before * (batch.positions == 0)).cummax(1).values
    )  # marks of the texts before, in a packed row
    return (before - at_start).clamp(max=1) * real(batch)


class ClassLoader(Loader):
    """A loader whose batches are no wider than their longest row."""

    def __next__(self) -> Batch:
        batch = super().__next__()
        width = max(1, int(real(batch).sum(1).max()))
        names = ("tokens", "targets", "positions", "documents")
        return dataclasses.replace(batch, **{name: getattr(batch, name)[:, :width] for name in names})
