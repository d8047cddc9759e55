"""The answers of a batch of pairs: which tokens are whose, kept from seeing each other.

The loader packs pairs as documents; here each is cut at its border into two, positions restarting, so that one
forward pass reads all answers as if each were alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from luban.alignment.preferences import Pairs
from luban.data.batch import IGNORED, Batch
from luban.nn.linear import linear
from luban.training.losses import CHUNK_TOKENS


@dataclass(frozen=True, kw_only=True)
class Answers:
    """A batch whose documents are answers: 2i and 2i + 1 are the two of pair i."""

    batch: Batch
    pairs: Int[Tensor, " pairs"]
    """Each pair's number in the set."""
    owners: Int[Tensor, " targets"]
    """Whose each target is: the answer, for the targets in the order of the flat batch."""
    lasts: Int[Tensor, " answers"]
    """The place, in the flat batch, of each answer's last token."""

    def totals(self, values: Float[Tensor, " targets"]) -> Float[Tensor, "pairs 2"]:
        """What each answer's targets add up to."""
        sums = torch.zeros(2 * len(self.pairs), dtype=values.dtype, device=values.device)
        return sums.index_add(0, self.owners, values).view(-1, 2)

    @property
    def counts(self) -> Float[Tensor, "pairs 2"]:
        """Targets of each answer: its tokens."""
        return self.totals(torch.ones(len(self.owners), device=self.owners.device))


def answers_of(batch: Batch, pairs: Pairs) -> Answers:
    """The answers in a batch of whole `pairs`, which the loader has laid into rows."""
    wanted = batch.targets.flatten() != IGNORED
    begins = (batch.positions == 0).flatten()
    piece = begins.cumsum(0) - 1  # of each token; rows begin with a piece, so none goes over a row's end
    sizes = torch.zeros(int(begins.sum()), dtype=torch.long, device=begins.device)
    real = sizes.index_add(0, piece, wanted.long()) > 0  # padding has nothing to learn
    numbers = torch.tensor([origin.document for origin in batch.ids], dtype=torch.long)
    assert int(real.sum()) == len(numbers), "every pair of a batch is whole and in one row"
    order = real.cumsum(0) - 1
    borders = torch.full_like(sizes, batch.tokens.shape[1])
    borders[real] = torch.from_numpy(pairs.borders)[numbers].to(borders.device)
    border = borders[piece].view_as(batch.positions)
    second = batch.positions >= border
    alone = replace(
        batch,
        positions=batch.positions - border * second,
        documents=2 * batch.documents + second,
        packed=True,
    )
    owner = 2 * order[piece] + second.flatten()
    ours = real[piece]
    places = torch.arange(len(piece), device=piece.device)[ours]
    lasts = torch.zeros(2 * len(numbers), dtype=torch.long, device=piece.device)
    lasts = lasts.scatter_reduce(0, owner[ours], places, "amax")
    return Answers(batch=alone, pairs=numbers, owners=owner[wanted], lasts=lasts)


def target_logps(
    model: Any, batch: Batch, hidden: Callable[..., Tensor] | None = None
) -> Float[Tensor, " targets"]:
    """The log-probability of each target of the batch, in order; documents do not see each other.

    The head's logits exist for some hundred tokens at a time, in the backward pass again. `hidden` replaces
    `model.hidden`, compiled for example.
    """
    cache = model.isolate(batch.documents) if batch.packed else None
    states = (hidden or model.hidden)(batch.tokens, batch.positions, cache).flatten(0, 1)
    return logps_of(states, model.head.weight, batch.targets.flatten())


def logps_of(
    states: Float[Tensor, "tokens dim"], weight: Float[Tensor, "vocab dim"], targets: Int[Tensor, " tokens"]
) -> Float[Tensor, " targets"]:
    """Each target's log-probability, those that are ignored left out."""
    kept = (targets != IGNORED).nonzero().squeeze(1)
    states, targets = states.index_select(0, kept), targets.index_select(0, kept)
    if not len(targets):  # a batch of padding: every weight still gets a gradient, of zeros
        return (states.sum() + weight.sum()) * states.new_zeros(0, dtype=torch.float32)
    parts = zip(states.split(CHUNK_TOKENS), targets.split(CHUNK_TOKENS), strict=True)
    return torch.cat([_recomputed(some, weight, wanted) for some, wanted in parts])


def _recomputed(states: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return _logps(states, weight, targets)
    return checkpoint(_logps, states, weight, targets, use_reentrant=False, preserve_rng_state=False)


def _logps(states: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    logits = linear(states, weight).float()
    return logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(1)
