"""Attention of low rank: softmax weights as products of positive random features (Performer's FAVOR+).

`exp(q k)` is the mean over random w of `phi(q) phi(k)`, `phi(x) = exp(w x - |x|²/2)`. With m such w for all
queries and keys, keys are summed up once, in m x head_dim numbers, and every query reads the sum: time and memory
linear in length. The more features, the closer to exact attention.

Source: Choromanski et al. 2021 (arXiv:2009.14794).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

CHUNK = 64
"""Tokens that the causal form compares one by one; those before them it has summed up."""


def orthogonal_features(
    features: int, head_dim: int, *, generator: torch.Generator | None = None
) -> Float[Tensor, "features head_dim"]:
    """Random directions, orthogonal within each group of `head_dim`, as long as Gaussian vectors are.

    Source: Choromanski et al. 2021, section 2.4: orthogonal ones vary less than independent ones.
    """
    groups = -(-features // head_dim)
    drawn = torch.randn(groups, head_dim, head_dim, generator=generator)
    directions = torch.linalg.qr(drawn).Q.flatten(0, 1)[:features]
    lengths = torch.randn(features, head_dim, generator=generator).norm(dim=1, keepdim=True)
    return directions * lengths


def favor_attention(
    q: Float[Tensor, "batch heads seq head_dim"],
    k: Float[Tensor, "batch kv_heads seq head_dim"],
    v: Float[Tensor, "batch kv_heads seq head_dim"],
    features: Float[Tensor, "features head_dim"],
    *,
    causal: bool = False,
) -> Float[Tensor, "batch heads seq head_dim"]:
    """Softmax attention estimated with `features` random directions; no weights are ever made."""
    k, v = (part.repeat_interleave(q.shape[1] // part.shape[1], 1) for part in (k, v))
    scale = q.shape[-1] ** -0.25  # half of softmax's 1/sqrt(head_dim) on either side
    # Any factor common to a query's features, or to all keys', falls out of the quotient: it keeps exp in range.
    q, k = _exponents(q * scale, features), _exponents(k * scale, features)
    q, k = (q - q.amax(-1, keepdim=True)).exp(), (k - k.amax((-2, -1), keepdim=True)).exp()
    counted = torch.cat([v, torch.ones_like(v[..., :1])], -1)  # the last column sums the weights
    sums = _causal_sums(q, k, counted) if causal else q @ (k.mT @ counted)
    return sums[..., :-1] / sums[..., -1:]


def _exponents(x: Tensor, features: Tensor) -> Float[Tensor, "batch heads seq features"]:
    """Logs of the positive features (lemma 1)."""
    return x @ features.t() - (x * x).sum(-1, keepdim=True) / 2


def _causal_sums(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """For each query the weighted sum of values up to its own place, chunk after chunk."""
    before = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1])
    outputs = []
    for here, keys, values in zip(*(part.split(CHUNK, 2) for part in (q, k, v)), strict=True):
        outputs.append(here @ before + (here @ keys.mT).tril() @ values)
        before = before + keys.mT @ values
    return torch.cat(outputs, 2)
