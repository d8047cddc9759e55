"""Normalisation of the residual stream. LayerNorm is `torch.nn.LayerNorm`."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from luban.nn.passes import rms_norm


class RMSNorm(nn.Module):
    """`x` scaled to root mean square 1 along its last axis, times a learned weight. No mean is taken away.

    Source: Zhang & Sennrich 2019, eq. 4 (arXiv:1910.07467).
    """

    def __init__(self, dim: int, *, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
        return rms_norm(x, self.weight, self.eps)
