"""FlashAttention written out: exact attention that never holds more than a tile of scores.

The softmax of a row is built up tile by tile: a running maximum and sum rescale what came before. The forward
pass keeps one number per query, the log of its normaliser; the backward pass computes the tiles again from it.
Memory is linear in length. This is the reference: plain PyTorch, to be read and compared with; models use the
framework's kernel of the same algorithm (`F.scaled_dot_product_attention`).

Source: Dao et al. 2022, algorithms 1 and 4 (arXiv:2205.14135), loops ordered as in Dao 2023 (arXiv:2307.08691).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def flash_attention(
    q: Float[Tensor, "batch heads seq head_dim"],
    k: Float[Tensor, "batch kv_heads end head_dim"],
    v: Float[Tensor, "batch kv_heads end head_dim"],
    *,
    causal: bool = False,
    tile: int = 128,
) -> Float[Tensor, "batch heads seq head_dim"]:
    """Softmax attention by tiles of `tile` queries and keys; with `causal` query i sees keys up to i."""
    shared = q.unflatten(1, (k.shape[1], -1))  # query heads beside the key head they share
    out, _ = _Flash.apply(shared, k[:, :, None], v[:, :, None], causal, tile)
    return out.flatten(1, 2)


class _Flash(torch.autograd.Function):
    """Over [batch kv_heads group seq head_dim]; keys and values have a group of one."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, causal: bool, tile: int) -> tuple[Tensor, Tensor]:
        out, normalisers = torch.empty_like(q), q.new_empty(q.shape[:-1])
        for rows in _tiles(q.shape[-2], tile):
            out[..., rows, :], normalisers[..., rows] = _row(q, k, v, rows, causal, tile)
        return out, normalisers

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        q, k, v, ctx.causal, ctx.tile = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(q, k, v, *output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        to_out, _ = gradients
        q, k, v, out, normalisers = ctx.saved_tensors
        to_q, to_k, to_v = (torch.zeros_like(part) for part in (q, k, v))
        pull = (to_out * out).sum(-1, keepdim=True)  # what the softmax's normalisation takes back
        scale = 1 / math.sqrt(q.shape[-1])
        for rows in _tiles(q.shape[-2], ctx.tile):
            here, into = q[..., rows, :], to_out[..., rows, :]
            for columns in _columns(rows, k.shape[-2], ctx.causal, ctx.tile):
                scores = _scores(here, k, rows, columns, ctx.causal)
                weights = (scores - normalisers[..., rows, None]).exp_()
                to_v[..., columns, :] += (weights.mT @ into).sum(2, keepdim=True)
                to_weights = into @ v[..., columns, :].mT
                to_scores = weights * (to_weights - pull[..., rows, :]) * scale
                to_q[..., rows, :] += to_scores @ k[..., columns, :]
                to_k[..., columns, :] += (to_scores.mT @ here).sum(2, keepdim=True)
        return to_q, to_k, to_v, None, None


def _row(
    q: Tensor, k: Tensor, v: Tensor, rows: slice, causal: bool, tile: int
) -> tuple[Float[Tensor, "... rows head_dim"], Float[Tensor, "... rows"]]:
    """What a tile of queries gathers, and the logs of their normalisers."""
    here = q[..., rows, :]
    out, total = torch.zeros_like(here), torch.zeros_like(here[..., :1])
    highest = torch.full_like(total, -torch.inf)
    for columns in _columns(rows, k.shape[-2], causal, tile):
        scores = _scores(here, k, rows, columns, causal)
        higher = torch.maximum(highest, scores.amax(-1, keepdim=True))
        weights = (scores - higher).exp_()
        faded = (highest - higher).exp_()
        total = total * faded + weights.sum(-1, keepdim=True)
        out = out * faded + weights @ v[..., columns, :]
        highest = higher
    return out / total, (highest + total.log()).squeeze(-1)


def _scores(here: Tensor, k: Tensor, rows: slice, columns: slice, causal: bool) -> Tensor:
    """A tile of scaled scores, -inf where a key lies ahead."""
    scores = here @ k[..., columns, :].mT / math.sqrt(here.shape[-1])
    if causal and columns.stop > rows.start + 1:
        own = torch.arange(rows.start, rows.stop, device=here.device)[:, None]
        scores.masked_fill_(torch.arange(columns.start, columns.stop, device=here.device) > own, -torch.inf)
    return scores


def _tiles(length: int, tile: int) -> Iterator[slice]:
    for start in range(0, length, tile):
        yield slice(start, min(start + tile, length))


def _columns(rows: slice, end: int, causal: bool, tile: int) -> Iterator[slice]:
    """The tiles of keys that a tile of queries sees."""
    return _tiles(min(rows.stop, end) if causal else end, tile)
