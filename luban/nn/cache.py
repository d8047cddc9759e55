"""Attention's memory, passed in from outside: each block gets its slot and asks it to attend.

A slot is anything with `attend(q, k, v)`. Without one a block does plain causal attention over its own keys.
Modules hold no buffers, layer numbers or lengths; the caller makes the slots and, after each forward pass,
calls `advance` on those that remember. A new kind (paged, sliding, cross-attention) is a new class here or
outside, never a flag in a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


class LayerCache(Protocol):
    """One layer's slot: takes new queries, keys and values, returns what the queries attend to."""

    def attend(
        self,
        q: Float[Tensor, "batch heads seq head_dim"],
        k: Float[Tensor, "batch kv_heads seq head_dim"],
        v: Float[Tensor, "batch kv_heads seq head_dim"],
    ) -> Float[Tensor, "batch heads seq head_dim"]: ...


Cache = Sequence[LayerCache]
"""One slot per block, in order."""


def causal_attention(
    q: Float[Tensor, "batch heads seq head_dim"],
    k: Float[Tensor, "batch kv_heads seq head_dim"],
    v: Float[Tensor, "batch kv_heads seq head_dim"],
) -> Float[Tensor, "batch heads seq head_dim"]:
    """Plain causal attention of a sequence over itself; query heads share key heads where there are fewer."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])


class Isolated:
    """Causal attention that does not cross documents packed into one row.

    `documents` numbers the document each token belongs to; one instance can serve every layer.
    """

    def __init__(self, documents: Int[Tensor, "batch seq"]) -> None:
        same = documents[:, None, :, None] == documents[:, None, None, :]
        causal = torch.ones(same.shape[-2:], dtype=torch.bool, device=documents.device).tril()
        self.mask = same & causal  # [batch, 1, seq, seq]

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=self.mask, enable_gqa=q.shape[1] != k.shape[1]
        )


class Dense:
    """Keys and values of all tokens so far, in one buffer of fixed capacity.

    `valid`, shared by all layers, is False at the padding of left-padded prompts; None when there is none.
    """

    def __init__(
        self,
        *,
        batch: int,
        kv_heads: int,
        capacity: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        valid: Bool[Tensor, "batch capacity"] | None = None,
    ) -> None:
        shape = (batch, kv_heads, capacity, head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.valid = valid
        self.length = 0

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        new = k.shape[2]
        end = self.length + new
        assert end <= self.keys.shape[2], f"{end} tokens in a cache for {self.keys.shape[2]}"
        self.keys.narrow(2, self.length, new).copy_(k)
        self.values.narrow(2, self.length, new).copy_(v)
        if self.valid is None and self.length == 0:
            return causal_attention(q, k, v)
        keys, values = self.keys.narrow(2, 0, end), self.values.narrow(2, 0, end)
        mask = None if new == 1 and self.valid is None else self._mask(end, new)
        gqa = q.shape[1] != k.shape[1]
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, enable_gqa=gqa)

    def advance(self, tokens: int) -> None:
        """Count `tokens` as remembered; the caller does this once per layer after a forward pass."""
        self.length += tokens

    def _mask(self, end: int, new: int) -> Bool[Tensor, "... new end"]:
        """Query i of the `new` ones sees keys up to its own place, and no padding."""
        places = torch.arange(end, device=self.keys.device)
        mask = places[None, :] <= places[end - new :, None]
        if self.valid is None:
            return mask
        # A padding query sees itself, so that its softmax is not over nothing (its output is never used).
        own = places[None, :] == places[end - new :, None]
        return (mask & self.valid[:, None, None, :end]) | own
