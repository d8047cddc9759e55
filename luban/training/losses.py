"""Next-token loss without ever holding all logits.

The head's logits are the largest tensor of a training step ([tokens, vocab]); here they exist one chunk at a
time, and their gradient is taken at once in the same chunk, so backward costs nothing more.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from luban.data.batch import IGNORED
from luban.nn.linear import linear

CHUNK_TOKENS = 1024


def linear_cross_entropy(
    hidden: Float[Tensor, "tokens dim"],
    weight: Float[Tensor, "vocab dim"],
    targets: Int[Tensor, " tokens"],
    *,
    chunk_tokens: int = CHUNK_TOKENS,
) -> Float[Tensor, ""]:
    """Summed cross-entropy, in nats, of `hidden @ weight.T` against `targets`; ignored ones add nothing.

    Summed, not averaged: the caller divides by the number of targets of the whole global batch, so that any
    split into micro-batches or ranks gives the same loss. Equal to `F.cross_entropy(reduction="sum")` in value
    and gradients; rows whose target is `IGNORED` never reach the head.
    """
    kept = (targets != IGNORED).nonzero().squeeze(1)
    if len(kept) < len(targets):
        hidden, targets = hidden.index_select(0, kept), targets.index_select(0, kept)
    loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, targets, chunk_tokens)
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    """Loss and both gradients in one pass over chunks of tokens."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk_tokens: int) -> Tensor:
        need_hidden, need_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if need_weight else None
        loss = hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, len(hidden), chunk_tokens):
            rows = slice(start, start + chunk_tokens)
            logits = linear(hidden[rows], weight).float()
            logz = logits.logsumexp(1, keepdim=True)
            column = targets[rows, None]
            loss += (logz - logits.gather(1, column)).sum()
            if grad_hidden is None and grad_weight is None:
                continue
            grad = logits.sub_(logz).exp_()  # softmax, in the logits' memory
            grad.scatter_add_(1, column, grad.new_full(column.shape, -1.0))
            grad = grad.to(weight.dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = linear(grad, weight.t())
            if grad_weight is not None:
                grad_weight += linear(grad.t(), hidden[rows].t())
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.weight_dtype = weight.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        scale = grads[0]
        if grad_hidden is not None:
            grad_hidden = grad_hidden * scale.to(grad_hidden.dtype)
        if grad_weight is not None:
            grad_weight = (grad_weight * scale).to(ctx.weight_dtype)
        return grad_hidden, grad_weight, None, None
