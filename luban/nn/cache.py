"""Attention's memory, passed in from outside: each block gets its slot and asks it to attend.

A slot is anything with `attend(q, k, v)`. Without one a block does plain causal attention over its own keys.
Modules hold no buffers, layer numbers or lengths; the caller makes the slots and, after each forward pass,
calls `advance` on those that remember. A new kind (paged, sliding, cross-attention) is a new class here or
outside, never a flag in a model. Layers without attention (RNN, SSM) keep their state in a `Recurrent` slot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from luban.nn.spans import span_attention, suits

Bias = Callable[[Int[Tensor, "new end"]], Float[Tensor, "heads new end"]]
"""What each head adds to its scores, from how far a key lies behind its query (negative: ahead of it)."""


class LookedUp:
    """A bias that is computed once: in one pass all blocks ask for the same distances."""

    def __init__(self, bias: Bias) -> None:
        self.bias = bias
        self.made: Tensor | None = None

    def __call__(self, distances: Int[Tensor, "new end"]) -> Float[Tensor, "heads new end"]:
        if self.made is None:
            self.made = self.bias(distances)
        return self.made


class LayerCache(Protocol):
    """One layer's slot: takes new queries, keys and values, returns what the queries attend to."""

    def attend(
        self,
        q: Float[Tensor, "batch heads seq head_dim"],
        k: Float[Tensor, "batch kv_heads seq head_dim"],
        v: Float[Tensor, "batch kv_heads seq head_dim"],
        bias: Bias | None = None,
    ) -> Float[Tensor, "batch heads seq head_dim"]: ...


class Remembering(Protocol):
    """A slot that grows with the text: what decoding needs of every layer's."""

    def advance(self, tokens: int) -> None:
        """Count `tokens` as remembered; the caller does this once per layer after a forward pass."""
        ...

    def select(self, rows: Int[Tensor, " batch"]) -> None:
        """Go on with these rows of the batch, in this order (beam search repeats and drops some)."""
        ...


Cache = Sequence[Any]
"""One slot per block, in order: a LayerCache, or what the family's blocks ask for."""


def attention(
    q: Float[Tensor, "batch heads seq head_dim"],
    k: Float[Tensor, "batch kv_heads end head_dim"],
    v: Float[Tensor, "batch kv_heads end head_dim"],
    mask: Bool[Tensor, "... seq end"] | None = None,
    bias: Bias | None = None,
) -> Float[Tensor, "batch heads seq head_dim"]:
    """What the queries, the last `seq` of `end` places, gather where `mask` is True (None: everywhere).

    Query heads share key heads where there are fewer.
    """
    added = mask
    if bias is not None:
        scores = bias(distances(q.shape[2], k.shape[2], q.device)).to(q.dtype)
        added = scores if mask is None else torch.where(mask, scores, -torch.inf)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=added, enable_gqa=q.shape[1] != k.shape[1])


def causal_attention(
    q: Float[Tensor, "batch heads seq head_dim"],
    k: Float[Tensor, "batch kv_heads seq head_dim"],
    v: Float[Tensor, "batch kv_heads seq head_dim"],
    bias: Bias | None = None,
) -> Float[Tensor, "batch heads seq head_dim"]:
    """Plain causal attention of a sequence over itself."""
    if bias is not None:
        return attention(q, k, v, causal_mask(q.shape[2], q.shape[2], q.device), bias)
    if suits(q, k, v):
        return span_attention(q, k, v, torch.zeros(1, q.shape[2], dtype=torch.int64))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])


def distances(new: int, end: int, device: torch.device) -> Int[Tensor, "new end"]:
    """How far each of `end` keys lies behind each of the last `new` queries."""
    places = torch.arange(end, device=device)
    return places[end - new :, None] - places[None, :]


def causal_mask(new: int, end: int, device: torch.device, window: int = 0) -> Bool[Tensor, "new end"]:
    """Which keys each of the last `new` queries may see: its own and `window - 1` before (0: all before)."""
    behind = distances(new, end, device)
    return (behind >= 0) & (behind < window) if window else behind >= 0


class Windowed:
    """Causal attention over the last `window` places only, the query's own among them; remembers nothing."""

    def __init__(self, window: int) -> None:
        self.window = window

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Bias | None = None) -> Tensor:
        if q.shape[2] <= self.window:
            return causal_attention(q, k, v, bias)
        if bias is None and suits(q, k, v):
            starts = (torch.arange(q.shape[2]) - self.window + 1).clamp_(0)
            return span_attention(q, k, v, starts[None])
        return attention(q, k, v, causal_mask(q.shape[2], q.shape[2], q.device, self.window), bias)


class Isolated:
    """Causal attention that does not cross documents packed into one row.

    `documents` numbers the document each token belongs to; one instance can serve every layer.
    """

    def __init__(self, documents: Int[Tensor, "batch seq"], window: int = 0) -> None:
        self.documents, self.window = documents, window
        self.starts = _starts(documents, window)
        self._mask: Tensor | None = None

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Bias | None = None) -> Tensor:
        if bias is None and suits(q, k, v):
            return span_attention(q, k, v, self.starts)
        return attention(q, k, v, self._seen(), bias)

    def _seen(self) -> Bool[Tensor, "batch 1 seq seq"]:
        """Who sees whom; made once for all layers, and only where something asks for it."""
        if self._mask is None:
            same = self.documents[:, None, :, None] == self.documents[:, None, None, :]
            seq = self.documents.shape[1]
            self._mask = same & causal_mask(seq, seq, self.documents.device, self.window)
        return self._mask


def _starts(documents: Int[Tensor, "batch seq"], window: int) -> Int[Tensor, "batch seq"]:
    """The first place each token sees: where its document begins, or `window` places back."""
    places = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)
    begins = torch.ones_like(documents, dtype=torch.bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    starts = torch.where(begins, places, 0).cummax(1).values
    return torch.maximum(starts, places - window + 1) if window else starts


class Bidirectional:
    """Attention in both directions, as encoders have it; one instance can serve every layer.

    `valid` is False at padding; or `documents`, packed into a row, do not see each other.
    """

    def __init__(
        self,
        valid: Bool[Tensor, "batch seq"] | None = None,
        documents: Int[Tensor, "batch seq"] | None = None,
    ) -> None:
        self.mask = None if valid is None else valid[:, None, None, :]
        if documents is not None:
            self.mask = documents[:, None, :, None] == documents[:, None, None, :]  # [batch, 1, seq, seq]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Bias | None = None) -> Tensor:
        return attention(q, k, v, self.mask, bias)


class Dense:
    """Keys and values of all tokens so far, in one buffer of fixed capacity.

    `valid`, shared by all layers, is False at the padding of left-padded prompts; None when there is none.
    `window` limits attention to so many places (0: all).
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
        window: int = 0,
    ) -> None:
        shape = (batch, kv_heads, capacity, head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.valid = valid
        self.window = window
        self.length = 0

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Bias | None = None) -> Tensor:
        new = k.shape[2]
        end = self.length + new
        assert end <= self.keys.shape[2], f"{end} tokens in a cache for {self.keys.shape[2]}"
        self.keys.narrow(2, self.length, new).copy_(k)
        self.values.narrow(2, self.length, new).copy_(v)
        windowed = 0 < self.window < end
        if self.valid is None and self.length == 0 and not windowed:
            return causal_attention(q, k, v, bias)
        keys, values = self.keys.narrow(2, 0, end), self.values.narrow(2, 0, end)
        mask = None if new == 1 and self.valid is None and not windowed else self._mask(end, new)
        return attention(q, keys, values, mask, bias)

    def advance(self, tokens: int) -> None:
        """See `Remembering`."""
        self.length += tokens

    def select(self, rows: Int[Tensor, " batch"]) -> None:
        """See `Remembering`."""
        self.keys, self.values = self.keys[rows], self.values[rows]
        self.valid = None if self.valid is None else self.valid[rows]

    def _mask(self, end: int, new: int) -> Bool[Tensor, "... new end"]:
        """Query i of the `new` ones sees keys up to its own place, and no padding."""
        mask = causal_mask(new, end, self.keys.device, self.window)
        if self.valid is None:
            return mask
        # A padding query sees itself, so that its softmax is not over nothing (its output is never used).
        own = distances(new, end, self.keys.device) == 0
        return (mask & self.valid[:, None, None, :end]) | own


def cache_bytes(cache: Cache) -> int:
    """Bytes of keys and values: layers x 2 x kv_heads x head_dim x capacity x rows x bytes of a number."""
    return sum(slot.keys.nbytes + slot.values.nbytes for slot in cache if isinstance(slot, Dense))


class Remembered:
    """Keys and values of an encoder's output: projected once, attended to by every new token.

    `valid` is False at the padding of the encoder's input.
    """

    def __init__(self, valid: Bool[Tensor, "batch source"] | None = None) -> None:
        self.valid = valid
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def fill(self, k: Tensor, v: Tensor) -> None:
        """Remember `k` and `v` [batch kv_heads source head_dim]; the block does this on its first pass."""
        self.keys, self.values = k, v

    def attend(self, q: Tensor) -> Tensor:
        """What the queries gather from the encoder's output, in no order."""
        assert self.keys is not None, "nothing is remembered yet"
        assert self.values is not None
        mask = None if self.valid is None else self.valid[:, None, None, :]
        return attention(q, self.keys, self.values, mask)

    def advance(self, tokens: int) -> None:
        """Nothing grows here."""

    def select(self, rows: Int[Tensor, " batch"]) -> None:
        """See `Remembering`."""
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[rows], self.values[rows]
        self.valid = None if self.valid is None else self.valid[rows]


@dataclass
class DecoderSlot:
    """A decoder block's slot: its own past, and the encoder's output."""

    own: Any
    """A LayerCache; None for plain causal attention over the tokens given."""
    source: Remembered

    def advance(self, tokens: int) -> None:
        """See `Remembering`."""
        if self.own is not None:
            self.own.advance(tokens)

    def select(self, rows: Int[Tensor, " batch"]) -> None:
        """See `Remembering`."""
        if self.own is not None:
            self.own.select(rows)
        self.source.select(rows)


class Recurrent:
    """What a layer that reads from left to right carries on: any tensors with the batch first.

    `valid` [batch, capacity] is False at left padding, which must leave the state as it is. `documents`
    [batch, seq] numbers the documents packed into a row, each of which begins with an empty state; it is for
    passes over whole rows.
    """

    def __init__(
        self,
        *,
        valid: Bool[Tensor, "batch capacity"] | None = None,
        documents: Int[Tensor, "batch seq"] | None = None,
    ) -> None:
        self.valid, self.documents = valid, documents
        self.state: tuple[Tensor, ...] | None = None
        self.length = 0

    def reads(self, seq: int) -> Bool[Tensor, "batch seq"] | None:
        """Which of the next `seq` tokens are to be read; None: all."""
        return None if self.valid is None else self.valid[:, self.length : self.length + seq]

    def begins(self) -> Bool[Tensor, "batch seq"] | None:
        """Which tokens of a packed row begin a document; None: none but the first."""
        if self.documents is None:
            return None
        first = torch.ones_like(self.documents[:, :1], dtype=torch.bool)
        return torch.cat([first, self.documents[:, 1:] != self.documents[:, :-1]], 1)

    def advance(self, tokens: int) -> None:
        """See `Remembering`."""
        self.length += tokens

    def select(self, rows: Int[Tensor, " batch"]) -> None:
        """See `Remembering`."""
        if self.state is not None:
            self.state = tuple(part[rows] for part in self.state)
        self.valid = None if self.valid is None else self.valid[rows]
