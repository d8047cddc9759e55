"""NEFTune: noise on the embeddings of tuning's texts, so that answers are learnt less by heart.

Source: Jain et al. 2023 (arXiv:2310.05914): uniform noise of -1 to 1 times alpha / sqrt(L d), L tokens of d numbers.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from luban.nn import surgery
from luban.nn.surgery import Part

NAME = "neftune"


class Noise(Part):
    """Noise on what an embedding gives, in training only; L is a row's length, however many documents it holds."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha

    def after(
        self, layer: Any, x: Tensor, y: Float[Tensor, "batch seq dim"]
    ) -> Float[Tensor, "batch seq dim"]:
        """See `Part.after`."""
        if not layer.training:
            return y
        most = self.alpha / math.sqrt(x.shape[-1] * y.shape[-1])
        return y + torch.empty_like(y).uniform_(-most, most)


def add_noise(model: Any, alpha: float) -> None:
    """Have `model` train with noise of `alpha` on its embeddings from now on; 0 changes nothing."""
    if alpha:
        surgery.attach(model.embedding, NAME, Noise(alpha))
