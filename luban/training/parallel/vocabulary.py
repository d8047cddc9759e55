"""Cross-entropy over a vocabulary of which each process holds a part: nobody ever sees all logits.

Two numbers per token go round, not the vocabulary: its largest logit, then the sum of exponentials together with
the target's logit. `losses.linear_cross_entropy` comes here by itself where the head's weight is so spread.

Source: Shoeybi et al. 2019, section 3 (arXiv:1909.08053), who send three.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor

from luban.training.losses import SoftmaxLoss
from luban.training.parallel.collectives import Group, shared, total
from luban.training.parallel.norms import is_part, local
from luban.training.parallel.plans import bounds


def own_part(
    hidden: Float[Tensor, "tokens dim"],
    weight: Any,  # a DTensor sharded over the axis `tp` by its rows
    bias: Float[Tensor, " vocab"] | None,
    *,
    smoothing: float,
) -> tuple[
    Float[Tensor, "tokens dim"], Float[Tensor, "part dim"], Float[Tensor, " part"] | None, SoftmaxLoss
]:
    """What `linear_cross_entropy` computes with on this process, and the softmax that asks the others."""
    mesh = weight.device_mesh
    assert mesh.mesh_dim_names == ("tp",), f"a head's weight spread over {mesh.mesh_dim_names}"
    group, vocab = mesh.get_group("tp"), weight.shape[0]
    begin, end = bounds(vocab, mesh.get_local_rank("tp"), mesh.size())
    if bias is not None:
        bias = local(bias) if is_part(bias) else shared(bias, group)[begin:end]
    softmax = functools.partial(
        sharded_softmax_loss, smoothing=smoothing, begin=begin, vocab=vocab, group=group
    )
    return shared(hidden, group), local(weight), bias, softmax


def sharded_softmax_loss(
    logits: Float[Tensor, "rows part"],
    targets: Int[Tensor, " rows"],
    *,
    gradient: bool,
    smoothing: float,
    begin: int,
    vocab: int,
    group: Group,
) -> tuple[Float[Tensor, ""], Float[Tensor, "rows part"] | None]:
    """`losses.softmax_loss` where `logits` are those of the ids from `begin` on, and others have the rest."""
    place = targets - begin
    column = place.clamp(0, logits.shape[1] - 1)[:, None]
    here = (place == column[:, 0]).to(logits.dtype)
    largest = total(logits.amax(1), group, dist.ReduceOp.MAX)
    logits.sub_(largest[:, None])
    wanted = (1 - smoothing) * here * logits.gather(1, column)[:, 0]
    if smoothing:
        wanted += smoothing / vocab * logits.sum(1)
    softmax = logits.exp_()
    normaliser, wanted = total(torch.stack([softmax.sum(1), wanted]), group)
    loss = (normaliser.log() - wanted).sum()
    if not gradient:
        return loss, None
    softmax.div_(normaliser[:, None])
    softmax.scatter_add_(1, column, (smoothing - 1.0) * here[:, None])
    if smoothing:
        softmax -= smoothing / vocab
    return loss, softmax
