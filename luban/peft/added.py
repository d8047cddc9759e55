"""What a low-rank change adds to its layer, `y + scale B A x`, with nothing kept for gradients that is soon made again.

`A x` is tiny, and one small tensor that stays between large ones that come and go leaves holes that no large one fits
into: kept for each layer, these took more memory than all activations of some models.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from luban.nn.kernels import plain
from luban.nn.linear import linear
from luban.nn.remade import Kept


def added(
    y: Float[Tensor, "... outputs"],
    x: Float[Tensor, "... inputs"],
    a: Float[Tensor, "r inputs"],
    b: Float[Tensor, "outputs r"],
    scale: float,
) -> Float[Tensor, "... outputs"]:
    """`y + scale * b @ a @ x`, in the dtype of `y`."""
    compiling = torch.compiler.is_compiling()  # which decides by itself what is kept
    if compiling or torch.is_autocast_enabled("cpu") or not plain(y, x, a, b):
        return y + (linear(linear(x, a), b) * scale).to(y.dtype)
    summed: Tensor = _Added.apply(y, x, a, b, scale)
    return summed


class _Added(torch.autograd.Function):
    """Keeps `x` (or what gives it again) and computes `A x` once more; of a frozen A it keeps `A x` and not `x`."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        thin = linear(x, a)
        ctx.kept, ctx.scale = Kept(x) if ctx.needs_input_grad[2] else None, scale
        ctx.save_for_backward(a, b, *(ctx.kept.tensors if ctx.kept else (thin,)))
        return linear(thin * scale, b).add_(y)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        a, b, *kept = ctx.saved_tensors
        _, to_x, to_a, to_b, _ = ctx.needs_input_grad
        x = ctx.kept.input(*kept).flatten(0, -2) if ctx.kept else None
        rows = gradients[0].flatten(0, -2)
        back = linear(rows, b.t()) * ctx.scale  # [tokens, r]
        thin = kept[0].flatten(0, -2) if x is None else linear(x, a)
        return (
            gradients[0],
            linear(back, a.t()).view(*gradients[0].shape[:-1], -1) if to_x else None,
            linear(back.t(), x.t()) if to_a and x is not None else None,
            linear((thin * ctx.scale).t(), rows.t()).t() if to_b else None,
            None,
        )
