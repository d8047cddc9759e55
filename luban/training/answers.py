"""What an encoder-decoder learns from pairs: to write the target, given the source.

The pairs of `translate` come as rows that hold one each (`data/pairs.py`): what is not learnt is the source. Those
of `pretrain` are made from whole rows (`denoising.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from luban.data.batch import IGNORED, Batch
from luban.models.seq2seq import Source, shifted_right
from luban.training.losses import linear_cross_entropy
from luban.training.step import Objective, Step, compiled_hidden


class Sides(NamedTuple):
    """A batch of pairs, both sides padded on the right, no wider than their longest."""

    source: Int[Tensor, "batch source"]
    valid: Bool[Tensor, "batch source"]
    targets: Int[Tensor, "batch seq"]


class Halves(NamedTuple):
    """A model's encoder and decoder as functions, compiled for example."""

    encode: Callable[..., Source]
    hidden: Callable[..., Tensor]


def answers(*, smoothing: float = 0.0, halves: Halves | None = None) -> Objective:
    """The objective of translation: cross-entropy of the target's tokens, each after those before it.

    `smoothing` spreads that share of each target over the vocabulary; `halves` replace the model's own.
    """

    def objective(model: Any, batch: Batch) -> Step:
        return learn_targets(model, take_apart(batch), smoothing=smoothing, halves=halves)

    return objective


def learn_targets(model: Any, sides: Sides, *, smoothing: float = 0.0, halves: Halves | None = None) -> Step:
    """The loss of each target token, given the source and the target's tokens before it."""
    encode, hidden = halves or (model.encode, model.hidden)
    start, pad = model.config.decoder_start_id, model.config.pad_id or 0
    begun = shifted_right(sides.targets, start=start, ignored=IGNORED, pad=pad)
    states = model.before_head(hidden(begun, encode(sides.source, sides.valid)))
    loss = linear_cross_entropy(
        states.flatten(0, 1),
        model.head.weight,
        sides.targets.flatten(),
        bias=model.head_bias(),
        smoothing=smoothing,
    )
    return Step(loss, int((sides.targets != IGNORED).sum()))


def compiled_halves(model: Any) -> Halves:
    """Both halves compiled, or as they are where no C++ compiler can be found (which is told)."""
    hidden = compiled_hidden(model)
    return Halves(model.encode if hidden == model.hidden else torch.compile(model.encode), hidden)


def take_apart(batch: Batch) -> Sides:
    """Sources and targets of rows that hold one pair each; a row of padding is a source of one token."""
    learnt = batch.targets != IGNORED
    counts = learnt.sum(1)
    # The token whose target is the first to be learnt is the source's last one.
    lengths = learnt.int().argmax(1) + 1
    width, seq = int(lengths.max()), max(1, int(counts.max()))
    places = torch.arange(max(width, seq), device=batch.tokens.device)
    at = (lengths[:, None] - 1 + places[:seq]).clamp(max=batch.targets.shape[1] - 1)
    targets = batch.targets.gather(1, at).masked_fill(places[:seq] >= counts[:, None], IGNORED)
    return Sides(batch.tokens[:, :width], places[:width] < lengths[:, None], targets)
