"""Attention by random features: how near to exact, and at what cost."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from luban.nn.cache import attention, causal_attention
from luban.nn.lowrank import favor_attention, orthogonal_features
from tests.nn.peak import PeakBytes


def drawn(seq: int, *, size: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seq)
    return [size * torch.randn(2, heads, seq, 16, generator=generator) for heads in (4, 2, 2)]


def error(features: int, *, causal: bool) -> float:
    """Relative distance to exact attention, the mean over ten draws of features."""
    q, k, v = drawn(100, size=0.4)
    exact = causal_attention(q, k, v) if causal else attention(q, k, v)
    errors = []
    for seed in range(10):
        directions = orthogonal_features(features, 16, generator=torch.Generator().manual_seed(seed))
        errors.append(
            float((favor_attention(q, k, v, directions, causal=causal) - exact).norm() / exact.norm())
        )
    return sum(errors) / len(errors)


@pytest.mark.parametrize("causal", [False, True])
def test_more_features_come_nearer_to_exact_attention(causal: bool) -> None:
    errors = [error(features, causal=causal) for features in (16, 64, 256, 1024)]
    assert errors == sorted(errors, reverse=True)
    # The error of a mean over m draws falls with the root of m: eight times from 16 to 1024.
    assert errors[3] < errors[0] / 6
    assert errors[3] < 0.05, errors


def test_the_kernel_is_estimated_without_bias() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = (0.5 * torch.randn(16, generator=generator) for _ in range(2))
    directions = torch.cat([orthogonal_features(16, 16, generator=generator) for _ in range(4000)])
    features = [(directions @ x - x @ x / 2).exp() for x in (q, k)]
    products = features[0] * features[1]
    spread = float(products.std() / len(products) ** 0.5)
    assert float(products.mean()) == pytest.approx(float((q @ k).exp()), abs=4 * spread)


def test_features_of_a_group_are_orthogonal_and_as_long_as_gaussian_ones() -> None:
    directions = orthogonal_features(1600, 16, generator=torch.Generator().manual_seed(0))
    group = directions[:16]
    products = group @ group.t()
    assert (products - products.diag().diag()).abs().max() < 1e-4
    assert float((directions**2).sum(1).mean()) == pytest.approx(16, rel=0.05)


def test_a_causal_output_knows_nothing_of_what_follows() -> None:
    q, k, v = drawn(150)
    directions = orthogonal_features(32, 16, generator=torch.Generator().manual_seed(0))
    whole = favor_attention(q, k, v, directions, causal=True)
    k[:, :, 130:], v[:, :, 130:] = 0.5, 9.0
    changed = favor_attention(q, k, v, directions, causal=True)
    torch.testing.assert_close(whole[:, :, :130], changed[:, :, :130], atol=1e-4, rtol=1e-4)


def test_the_last_causal_output_is_the_full_one() -> None:
    q, k, v = drawn(100)
    directions = orthogonal_features(32, 16, generator=torch.Generator().manual_seed(0))
    causal, full = (favor_attention(q, k, v, directions, causal=flag) for flag in (True, False))
    torch.testing.assert_close(causal[:, :, -1], full[:, :, -1])


def test_large_scores_stay_finite() -> None:
    q, k, v = drawn(40, size=20.0)
    directions = orthogonal_features(64, 16, generator=torch.Generator().manual_seed(0))
    assert favor_attention(q, k, v, directions).isfinite().all()


@pytest.mark.parametrize("causal", [False, True])
def test_memory_grows_with_the_length(causal: bool) -> None:
    def peak_bytes(seq: int) -> int:
        directions = orthogonal_features(16, 16)
        q, k, v = (part[:1, :1].requires_grad_() for part in drawn(seq))
        with PeakBytes() as memory:
            favor_attention(q, k, v, directions, causal=causal).sum().backward()
        return memory.peak

    assert peak_bytes(2048) < 4.5 * peak_bytes(512)
