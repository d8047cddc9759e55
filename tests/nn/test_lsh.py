"""Attention within hash buckets, against the square with the pairs that met."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from luban.errors import ModelError
from luban.nn.lsh import OWN, hashed, lsh_attention
from tests.nn.peak import PeakBytes


def drawn(seq: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seq)
    q, v = (torch.randn(2, 3, seq, 8, generator=generator).requires_grad_() for _ in range(2))
    return q, v


def shared_attention(q: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention with keys made of the queries, the square written out."""
    scores = q @ F.normalize(q, dim=-1).mT / math.sqrt(q.shape[-1])
    own = torch.eye(q.shape[2], dtype=torch.bool)
    scores = scores.masked_fill(own, OWN)
    if mask is not None:
        scores = scores.masked_fill(~mask & ~own, -torch.inf)
    return scores.softmax(-1) @ v


def met(q: Tensor, *, buckets: int, chunk: int, rounds: int, seed: int) -> Tensor:
    """Which pairs share a bucket and are sorted near each other, in any round; one by one."""
    rows, seq = q.flatten(0, 1), q.shape[2]
    ids = hashed(rows, buckets=buckets, rounds=rounds, generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros(len(rows), seq, seq, dtype=torch.bool)
    for row, numbers in enumerate(ids.tolist()):
        for bucket in numbers:
            order = sorted(range(seq), key=lambda place: (bucket[place], place))
            at = {place: index // chunk for index, place in enumerate(order)}
            for i in range(seq):
                for j in range(seq):
                    mask[row, i, j] |= bucket[i] == bucket[j] and at[i] - at[j] in (0, 1)
    return mask.view(*q.shape[:2], seq, seq)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("rounds", [1, 3])
def test_one_bucket_for_all_is_full_attention(rounds: int, causal: bool) -> None:
    q, v = drawn(10)
    out = lsh_attention(q, v, buckets=1, chunk=10, rounds=rounds, causal=causal)
    expected = shared_attention(q, v, torch.ones(10, 10, dtype=torch.bool).tril() if causal else None)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    ours, theirs = (torch.autograd.grad((part**2).sum(), (q, v)) for part in (out, expected))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@given(
    seq=st.integers(1, 18),
    buckets=st.sampled_from([1, 2, 4]),
    chunk=st.integers(1, 7),
    rounds=st.integers(1, 3),
    causal=st.booleans(),
)
@settings(max_examples=25)
def test_a_pair_counts_once_however_often_it_met(
    seq: int, buckets: int, chunk: int, rounds: int, causal: bool
) -> None:
    q, v = drawn(seq)
    generator = torch.Generator().manual_seed(5)
    out = lsh_attention(q, v, buckets=buckets, chunk=chunk, rounds=rounds, causal=causal, generator=generator)
    mask = met(q, buckets=buckets, chunk=chunk, rounds=rounds, seed=5)
    mask = mask.tril() if causal else mask
    torch.testing.assert_close(out, shared_attention(q, v, mask), atol=1e-5, rtol=1e-5)


def test_what_points_the_same_way_shares_a_bucket_more_often() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(1, 200, 16, generator=generator)
    near = base + 0.2 * torch.randn(base.shape, generator=generator)
    both = torch.cat([base, near], 1)
    ids = hashed(both, buckets=8, rounds=4, generator=generator)
    first, second = ids.split(200, -1)
    assert (first == second).float().mean() > 0.7
    assert (first == second.roll(1, -1)).float().mean() < 0.25


def test_more_rounds_come_nearer_to_full_attention() -> None:
    generator = torch.Generator().manual_seed(0)
    q, v = (torch.randn(1, 2, 128, 16, generator=generator) for _ in range(2))
    q = q * 12  # peaked weights: what matters is few
    exact = shared_attention(q, v)
    errors = []
    for rounds in (1, 2, 4, 8):
        out = lsh_attention(q, v, buckets=8, chunk=16, rounds=rounds, generator=generator)
        errors.append((out - exact).norm() / exact.norm())
    assert errors == sorted(errors, reverse=True)
    assert errors[3] < 0.4 * errors[0]


def test_memory_grows_with_the_length_and_not_with_its_square() -> None:
    def peak_bytes(seq: int) -> int:
        q, v = (part[:1, :1] for part in drawn(seq))
        with PeakBytes() as memory:
            lsh_attention(q, v, buckets=seq // 8, chunk=16).sum().backward()
        return memory.peak

    # Hashing compares each token with seq/8 directions: that part is a small square, as in the paper.
    small, large = peak_bytes(256), peak_bytes(1024)
    assert large < 6 * small


def test_an_odd_number_of_buckets_is_refused() -> None:
    with pytest.raises(ModelError, match="3 buckets; directions come in opposite pairs"):
        lsh_attention(*drawn(4), buckets=3, chunk=2)
