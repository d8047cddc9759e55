"""The position-wise half of a block: widen, bend, narrow."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from luban.nn.linear import Linear, Together
from luban.nn.passes import swiglu

Activation = Literal["gelu", "gelu_new", "relu"]
"""What bends between the two products, by Hugging Face's names; `gelu_new` is the tanh form of `gelu`."""

ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": functools.partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}


class GatedMLP(nn.Module):
    """`down(silu(gate(x)) * up(x))`, without biases.

    Source: Shazeer 2020, eq. 6, SwiGLU (arXiv:2002.05202).
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate = Linear(dim, hidden, bias=False)
        self.up = Linear(dim, hidden, bias=False)
        self.down = Linear(hidden, dim, bias=False)
        self.joined: Together | None = None

    def join(self) -> None:
        """Compute gate and up as one product from now on (inference only)."""
        self.joined = self.gate.join(self.up)

    def forward(self, x: Float[Tensor, "batch seq dim"]) -> Float[Tensor, "batch seq dim"]:
        gate, up = (self.gate(x), self.up(x)) if self.joined is None else self.joined(x)
        return self.down(swiglu(gate, up))


class MLP(nn.Module):
    """`down(activation(up(x)))` with biases; GELU in its tanh form is GPT-2's.

    Source: Hendrycks & Gimpel 2016, section 2 (arXiv:1606.08415); Vaswani et al. 2017, eq. 2, for ReLU.
    """

    def __init__(self, dim: int, hidden: int, activation: Activation = "gelu_new") -> None:
        super().__init__()
        self.up = Linear(dim, hidden)
        self.down = Linear(hidden, dim)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Float[Tensor, "batch seq dim"]) -> Float[Tensor, "batch seq dim"]:
        return self.down(self.activation(self.up(x)))
