"""Slots: what each remembers and masks, against attention written out."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from luban.nn.cache import Dense, Isolated, causal_attention

CPU = torch.device("cpu")


def heads(seq: int, *, batch: int = 2, heads: int = 4, kv_heads: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seq)
    q, k, v = (torch.randn(batch, n, seq, 8, generator=generator) for n in (heads, kv_heads, kv_heads))
    return q, k, v


def written_out(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(head_dim)) v where `mask`, head by head."""
    repeats = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~mask, -torch.inf)
    return scores.softmax(-1) @ v


def dense(capacity: int, valid: Tensor | None = None, batch: int = 2) -> Dense:
    return Dense(
        batch=batch, kv_heads=2, capacity=capacity, head_dim=8, dtype=torch.float32, device=CPU, valid=valid
    )


def test_causal_attention_is_as_written_out() -> None:
    q, k, v = heads(6)
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    torch.testing.assert_close(causal_attention(q, k, v), written_out(q, k, v, causal))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5))
@settings(max_examples=25, deadline=None)
def test_any_split_into_chunks_attends_as_the_whole(sizes: list[int]) -> None:
    q, k, v = heads(sum(sizes))
    slot, outputs = dense(sum(sizes) + 3), []
    for part in zip(*(x.split(sizes, 2) for x in (q, k, v)), strict=True):
        outputs.append(slot.attend(*part))
        slot.advance(part[0].shape[2])
    torch.testing.assert_close(torch.cat(outputs, 2), causal_attention(q, k, v))


@given(padding=st.lists(st.integers(0, 4), min_size=2, max_size=2))
@settings(max_examples=10, deadline=None)
def test_padding_on_the_left_is_not_seen(padding: list[int]) -> None:
    q, k, v = heads(6)
    valid = torch.arange(6) >= torch.tensor(padding)[:, None]
    out = dense(6, valid).attend(q, k, v)
    for row, pad in enumerate(padding):
        own = slice(row, row + 1)
        alone = causal_attention(q[own, :, pad:], k[own, :, pad:], v[own, :, pad:])
        torch.testing.assert_close(out[row : row + 1, :, pad:], alone)
    assert out.isfinite().all()


def test_a_full_cache_refuses_more() -> None:
    slot = dense(4)
    slot.attend(*heads(4))
    slot.advance(4)
    with pytest.raises(AssertionError, match="5 tokens in a cache for 4"):
        slot.attend(*heads(1))


def test_isolated_documents_attend_alone() -> None:
    q, k, v = heads(7)
    out = Isolated(torch.tensor([[0, 0, 0, 1, 1, 2, 2]] * 2)).attend(q, k, v)
    parts = zip(*(x.split([3, 2, 2], 2) for x in (q, k, v)), strict=True)
    torch.testing.assert_close(out, torch.cat([causal_attention(*part) for part in parts], 2))
