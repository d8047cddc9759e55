"""FlashAttention written out, against the framework's kernel."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from luban.nn.flash import flash_attention
from tests.nn.peak import PeakBytes


def heads(seq: int, *, end: int = 0, count: int = 4, kv_heads: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seq)
    sizes = ((count, seq), (kv_heads, end or seq), (kv_heads, end or seq))
    q, k, v = (torch.randn(2, *size, 8, generator=generator).requires_grad_() for size in sizes)
    return q, k, v


def gradients(out: Tensor, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(0))
    return torch.autograd.grad((out * direction).sum(), tensors)


@given(
    seq=st.integers(1, 40),
    tile=st.integers(1, 17),
    causal=st.booleans(),
    kv_heads=st.sampled_from([1, 2, 4]),
)
@settings(max_examples=30)
def test_values_and_gradients_are_those_of_the_kernel(
    seq: int, tile: int, causal: bool, kv_heads: int
) -> None:
    qkv = heads(seq, kv_heads=kv_heads)
    out = flash_attention(*qkv, causal=causal, tile=tile)
    expected = F.scaled_dot_product_attention(*qkv, is_causal=causal, enable_gqa=True)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradients(out, qkv), gradients(expected, qkv), atol=1e-5, rtol=1e-5)


def test_queries_may_look_at_another_text() -> None:
    qkv = heads(5, end=11)
    expected = F.scaled_dot_product_attention(*qkv, enable_gqa=True)
    torch.testing.assert_close(flash_attention(*qkv, tile=4), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [1e2, 1e4])
def test_scores_of_any_size_stay_finite(size: float) -> None:
    q, k, v = heads(9)
    out = flash_attention(q * size, k, v, tile=2)
    assert out.isfinite().all()
    expected = F.scaled_dot_product_attention(q * size, k, v, enable_gqa=True)
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)


def peak_bytes(seq: int, *, tiled: bool) -> int:
    q, k, v = heads(seq, count=1, kv_heads=1)
    with PeakBytes() as memory:
        if tiled:
            out = flash_attention(q, k, v, causal=True, tile=32)
        else:
            out = ((q @ k.mT).masked_fill(torch.ones(seq, seq).triu(1) > 0, -torch.inf)).softmax(-1) @ v
        out.sum().backward()
    return memory.peak


def test_memory_grows_with_the_length_and_not_with_its_square() -> None:
    lengths = (128, 256, 512)
    tiled = [peak_bytes(seq, tiled=True) for seq in lengths]
    assert tiled[2] - tiled[1] == pytest.approx(2 * (tiled[1] - tiled[0]), rel=0.1)
    whole = [peak_bytes(seq, tiled=False) for seq in lengths]
    assert whole[2] - whole[1] == pytest.approx(4 * (whole[1] - whole[0]), rel=0.1)
    assert whole[2] > 10 * tiled[2]
