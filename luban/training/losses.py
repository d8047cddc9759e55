"""Next-token loss without ever holding all logits.

The head's logits are the largest tensor of a training step ([tokens, vocab]); here they exist one chunk at a
time, and their gradient is taken at once in the same chunk, so backward costs nothing more.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from luban.data.batch import IGNORED
from luban.machine import tuned
from luban.nn.linear import linear
from luban.nn.passes import softmax_losses, suits_softmax
from luban.training.parallel.norms import is_part

CHUNK_TOKENS = 512
PIECE_VOCAB = 8192
"""Rows of the head's weight whose gradient is computed at a time."""


def linear_cross_entropy(
    hidden: Float[Tensor, "tokens dim"],
    weight: Float[Tensor, "vocab dim"],
    targets: Int[Tensor, " tokens"],
    *,
    bias: Float[Tensor, " vocab"] | None = None,
    chunk_tokens: int = 0,
    smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Summed cross-entropy, in nats, of `hidden @ weight.T + bias` against `targets`; ignored ones add nothing.

    Summed, not averaged: the caller divides by the number of targets of the whole global batch, so that any
    split into micro-batches or ranks gives the same loss. Equal to `F.cross_entropy(reduction="sum")` in value
    and gradients; rows whose target is `IGNORED` never reach the head. `smoothing` spreads that share of each
    target evenly over the vocabulary. `chunk_tokens` 0 takes what this machine was tuned to, else `CHUNK_TOKENS`.

    A weight spread over processes by its rows (tensor parallel) gives everyone the same loss, see `vocabulary.py`.

    Source: label smoothing, Szegedy et al. 2016, section 7 (arXiv:1512.00567).
    """
    chunk_tokens = chunk_tokens or tuned().chunk_tokens or CHUNK_TOKENS
    kept = (targets != IGNORED).nonzero().squeeze(1)
    if len(kept) < len(targets):
        hidden, targets = hidden.index_select(0, kept), targets.index_select(0, kept)
    softmax: SoftmaxLoss = functools.partial(softmax_loss, smoothing=smoothing)
    if is_part(weight):
        from luban.training.parallel.vocabulary import (
            own_part,
        )  # only a spread weight needs torch.distributed

        hidden, weight, bias, softmax = own_part(hidden, weight, bias, smoothing=smoothing)
    loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, bias, targets, chunk_tokens, softmax)
    return loss


SoftmaxLoss = Callable[..., tuple[Tensor, Tensor | None]]
"""From float32 `logits` [rows vocab], which it may overwrite, `targets` and `gradient`: as `softmax_loss`."""


def softmax_loss(
    logits: Float[Tensor, "rows vocab"],
    targets: Int[Tensor, " rows"],
    *,
    gradient: bool,
    smoothing: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, "rows vocab"] | None]:
    """Summed cross-entropy and, if asked for, its gradient of the logits, in the logits' memory."""
    if suits_softmax(logits, targets):
        losses = softmax_losses(logits, targets, gradient=gradient, smoothing=smoothing)
        return losses.sum(), logits if gradient else None
    logz = logits.logsumexp(1, keepdim=True)
    column = targets[:, None]
    loss = (logz - (1 - smoothing) * logits.gather(1, column)).sum()
    if smoothing:
        loss -= smoothing * logits.mean(1).sum()
    if not gradient:
        return loss, None
    softmax = logits.sub_(logz).exp_()
    softmax.scatter_add_(1, column, softmax.new_full(column.shape, smoothing - 1.0))
    if smoothing:
        softmax -= smoothing / logits.shape[1]
    return loss, softmax


class _LinearCrossEntropy(torch.autograd.Function):
    """Loss and all gradients in one pass over chunks of tokens."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        chunk_tokens: int,
        softmax: SoftmaxLoss,
    ) -> Tensor:
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if need_weight else None
        grad_bias = torch.zeros_like(weight[:, 0], dtype=torch.float32) if need_bias else None
        loss = hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, len(hidden), chunk_tokens):
            rows = slice(start, start + chunk_tokens)
            logits = linear(hidden[rows], weight, bias).float()
            chunk_loss, grad = softmax(logits, targets[rows], gradient=any(ctx.needs_input_grad))
            loss += chunk_loss
            if grad is None:
                continue
            grad = grad.to(weight.dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = linear(grad, weight.t())
            if grad_weight is not None:
                _add_product(grad_weight, grad, hidden[rows])
            if grad_bias is not None:
                grad_bias += grad.sum(0)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.weight_dtype = weight.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        scale, dtype = grads[0], ctx.weight_dtype
        hidden_dtype = None if grad_hidden is None else grad_hidden.dtype
        return (
            _scaled(grad_hidden, scale, hidden_dtype),
            _scaled(grad_weight, scale, dtype),
            _scaled(grad_bias, scale, dtype),
            None,
            None,
            None,
        )


def _scaled(gradient: Tensor | None, scale: Tensor, dtype: torch.dtype | None) -> Tensor | None:
    """`scale * gradient` in `dtype`; itself where nothing changes: all activations are still there, memory is dear."""
    if gradient is None:
        return None
    if not scale.requires_grad and scale.is_cpu and scale.item() == 1.0:
        return gradient.to(dtype)
    return (gradient * scale).to(dtype)


def _add_product(
    total: Float[Tensor, "vocab dim"], grad: Float[Tensor, "rows vocab"], hidden: Float[Tensor, "rows dim"]
) -> None:
    """Add `grad.T @ hidden` to `total`, some of the vocabulary at a time: whole, it would be held twice."""
    for part, sums in zip(grad.split(PIECE_VOCAB, 1), total.split(PIECE_VOCAB), strict=True):
        sums += linear(part.t(), hidden.t())
