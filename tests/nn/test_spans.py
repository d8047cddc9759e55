"""The CPU's own attention over spans of keys, against PyTorch's with a mask."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from luban.nn import cache
from luban.nn.cache import Isolated, Windowed, causal_attention
from luban.nn.spans import available, span_attention, suits

pytestmark = pytest.mark.skipif(
    not available(), reason="no C++ compiler or no OpenMP here: the general way is used, and tested elsewhere"
)
SHAPES = [(2, 4, 4, 64, 64), (2, 4, 2, 100, 32), (1, 4, 1, 37, 48), (1, 2, 2, 200, 128), (3, 1, 1, 17, 16)]
"""batch, heads, kv_heads, seq, head_dim; lengths that do and do not fill blocks and vectors."""


def parts(batch: int, heads: int, kv_heads: int, seq: int, dim: int, *, seed: int = 0) -> list[Tensor]:
    """Queries, keys, values, laid out as projections leave them."""
    made = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(batch, seq, count, dim, generator=made) for count in (heads, kv_heads, kv_heads)]
    return [part.transpose(1, 2).requires_grad_() for part in drawn]


def masked(q: Tensor, k: Tensor, v: Tensor, starts: Tensor) -> Tensor:
    """The definition, in float64."""
    places = torch.arange(q.shape[2])
    mask = (places <= places[:, None]) & (places >= starts[:, None, :, None])
    return F.scaled_dot_product_attention(
        *(part.double() for part in (q, k, v)), attn_mask=mask, enable_gqa=True
    )


def spans(batch: int, seq: int) -> Tensor:
    """Starts of two documents a row, bordered elsewhere in each row."""
    places = torch.arange(seq)
    borders = torch.tensor([seq // (row + 2) for row in range(batch)])[:, None]
    return torch.where(places >= borders, borders, 0)


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_those_of_masked_attention(shape: tuple[int, int, int, int, int]) -> None:
    q, k, v = parts(*shape)
    starts = spans(shape[0], shape[3])
    ours, theirs = span_attention(q, k, v, starts), masked(q, k, v, starts)
    torch.testing.assert_close(ours.double(), theirs, atol=3e-6, rtol=1e-5)
    upstream = torch.randn(ours.shape)
    found = torch.autograd.grad(ours, (q, k, v), upstream)
    expected = torch.autograd.grad(theirs, (q, k, v), upstream.double())
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("window", [0, 20])
def test_packed_documents_see_the_same_with_and_without_the_kernel(
    window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k, v = parts(2, 2, 2, 60, 16)
    documents = torch.tensor([[0] * 10 + [1] * 45 + [2] * 5, [0] * 59 + [1]])
    quick = Isolated(documents, window).attend(q, k, v)
    monkeypatch.setattr(cache, "suits", lambda *_: False)
    torch.testing.assert_close(quick, Isolated(documents, window).attend(q, k, v), atol=1e-6, rtol=1e-5)


def test_a_window_sees_the_same_with_and_without_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = parts(1, 2, 2, 50, 16)
    quick = Windowed(7).attend(q, k, v)
    monkeypatch.setattr(cache, "suits", lambda *_: False)
    torch.testing.assert_close(quick, Windowed(7).attend(q, k, v), atol=1e-6, rtol=1e-5)


def test_the_number_of_threads_changes_no_bit() -> None:
    q, k, v = parts(4, 4, 2, 130, 32)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        out = causal_attention(q, k, v)
        found.append([out, *torch.autograd.grad(out.square().sum(), (q, k, v))])
    torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def test_what_is_not_a_number_is_not_hidden() -> None:
    q, k, v = parts(1, 1, 1, 40, 16)
    with torch.no_grad():
        q[0, 0, 30, 3] = float("nan")
    out = causal_attention(q, k, v)
    assert out[0, 0, 30].isnan().all()
    assert out[0, 0, :30].isfinite().all()


def test_scores_too_large_for_an_exponential_stay_finite() -> None:
    q, k, v = (part.detach() * 60 for part in parts(1, 2, 2, 64, 16))
    starts = torch.zeros(1, 64, dtype=torch.int64)
    torch.testing.assert_close(
        span_attention(q, k, v, starts).double(), masked(q, k, v, starts), atol=1e-2, rtol=1e-3
    )


def test_other_numbers_and_odd_heads_go_the_general_way() -> None:
    q, k, v = parts(1, 1, 1, 40, 16)
    assert suits(q, k, v)
    assert not suits(*(part.bfloat16() for part in (q, k, v)))
    assert not suits(*(part[..., :12] for part in (q, k, v)))
    assert not suits(q[:, :, -1:], k, v)  # a query after a cache


@pytest.mark.slow
def test_compiled_it_is_the_same() -> None:
    torch.compiler.reset()
    q, k, v = parts(2, 2, 2, 48, 16)
    eager = causal_attention(q, k, v)
    compiled = torch.compile(causal_attention)(q, k, v)
    torch.testing.assert_close(compiled, eager)
    expected = torch.autograd.grad(eager.square().sum(), (q, k, v))
    found = torch.autograd.grad(compiled.square().sum(), (q, k, v))
    torch.testing.assert_close(found, expected)
