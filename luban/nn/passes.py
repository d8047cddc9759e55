"""Chains of element-wise arithmetic as one pass over memory: RMSNorm, the gated MLP's bend, a loss's softmax.

PyTorch runs such a chain operation by operation, and each one reads and writes all of its tensors. On a CPU in float32
the C++ beside this file goes through once, forward and backward; elsewhere PyTorch's operations do the same. Either
way the results are noted as tensors that can be made again.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from luban.nn.kernels import Kernels, is_imagined, plain
from luban.nn.remade import can_be_made_again

KERNELS = Kernels(Path(__file__).with_suffix(".cpp"))
ROWS, PIECE = 64, 4096
"""Rows, or numbers of a flat tensor, that one thread takes at a time; the C++ has the same."""


class _Pass(ctypes.Structure):
    _fields_ = (
        ("rows", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("part", ctypes.c_int64),
        ("period", ctypes.c_int64),
        ("number", ctypes.c_float),
        ("targets", ctypes.c_void_p),
        ("given", ctypes.c_void_p * 4),
        ("made", ctypes.c_void_p * 2),
        ("next", ctypes.c_int64),
    )


def rms_norm(
    x: Float[Tensor, "... dim"], weight: Float[Tensor, " dim"], eps: float
) -> Float[Tensor, "... dim"]:
    """`F.rms_norm` over the last axis, of which a product that follows keeps nothing but `x`."""
    if not _pays(x, weight):
        return F.rms_norm(x, weight.shape, weight, eps)
    x = x.contiguous()
    made: Tensor = _Norm.apply(x, weight, eps)
    return can_be_made_again(made, functools.partial(_normed_again, eps=eps), x, weight)


def swiglu(gate: Float[Tensor, "... hidden"], up: Float[Tensor, "... hidden"]) -> Float[Tensor, "... hidden"]:
    """`silu(gate) * up`, of which only the two are kept.

    Source: Shazeer 2020, eq. 6 (arXiv:2002.05202).
    """
    quick = _pays(gate, up) and gate.is_contiguous() and up.is_contiguous()
    if torch.compiler.is_compiling() or not (torch.is_grad_enabled() or quick):
        return F.silu(gate) * up
    gate, up = gate.contiguous(), up.contiguous()
    return can_be_made_again(_Bend.apply(gate, up), _bent, gate, up)


def turn(
    x: Float[Tensor, "batch heads seq head_dim"],
    cos: Float[Tensor, "#batch 1 seq head_dim"],
    sin: Float[Tensor, "#batch 1 seq head_dim"],
) -> Float[Tensor, "batch heads seq head_dim"]:
    """`x * cos` and, of its halves exchanged, `* sin`: what rotary positions are."""
    if _pays(x, cos, sin) and _token_after_token(x) and cos.shape[-1] == x.shape[-1]:
        return _Turn.apply(x, cos.contiguous(), sin.contiguous())
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def softmax_losses(
    logits: Float[Tensor, "rows vocab"], targets: Int[Tensor, " rows"], *, gradient: bool, smoothing: float
) -> Float[Tensor, " rows"]:
    """Each row's cross-entropy; with `gradient` the logits become their own gradient. Take what `suits_softmax`."""
    losses = logits.new_empty(len(logits))
    task = _rows(logits, smoothing)
    task.targets = targets.data_ptr()
    _run("softmax", task, [logits] if gradient else [], [logits, losses])
    return losses


def suits_softmax(logits: Tensor, targets: Tensor) -> bool:
    """Whether `softmax_losses` takes these."""
    return _suits(logits) and logits.is_contiguous() and targets.is_contiguous()


def _suits(*tensors: Tensor) -> bool:
    return not torch.compiler.is_compiling() and plain(*tensors) and KERNELS.available()


def _pays(x: Tensor, *others: Tensor) -> bool:
    """Whether a call from Python costs less than it saves: not for the few rows of a decoding step."""
    return (torch.is_grad_enabled() or x.numel() >= PIECE * 4) and _suits(x, *others)


class _Norm(torch.autograd.Function):
    """RMSNorm that keeps its input and a scale for each row. Differentiable twice.

    Source: Zhang & Sennrich 2019, eq. 4 (arXiv:1910.07467).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        y, scales = _normed(x, weight, eps)
        ctx.save_for_backward(x, weight, scales)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scales = ctx.saved_tensors
        (grad,) = gradients
        if torch.is_grad_enabled() or not plain(grad):
            scales = (x.square().mean(-1, keepdim=True) + ctx.eps).rsqrt()
            slope = grad * weight
            grad_x = scales * (slope - x * scales.square() * (slope * x).mean(-1, keepdim=True))
            return grad_x, (grad * x * scales).flatten(0, -2).sum(0), None
        grad_x, parts = _empty(x), x.new_empty(-(-len(scales) // ROWS), len(weight))
        _run("norm_backward", _rows(x), [grad.contiguous(), x, weight, scales], [grad_x, parts])
        return grad_x, parts.sum(0), None


def _normed(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The norm, and the scale of each row."""
    y, scales = _empty(x), x.new_empty(x.numel() // len(weight))
    _run("norm", _rows(x, eps), [x, weight], [y, scales])
    return y, scales


def _normed_again(x: Tensor, weight: Tensor, *, eps: float) -> Tensor:
    return F.rms_norm(x, weight.shape, weight, eps) if torch.is_grad_enabled() else _normed(x, weight, eps)[0]


class _Bend(torch.autograd.Function):
    """`silu(gate) * up`, keeping no more than the two. Differentiable twice."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return _bent(gate, up)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        (grad,) = gradients
        if torch.is_grad_enabled():
            share = gate.sigmoid()
            return grad * up * share * (1 + gate * (1 - share)), grad * gate * share
        if not _suits(grad, gate, up):
            return torch.ops.aten.silu_backward(grad * up, gate), grad * F.silu(gate)
        grad_gate, grad_up = _empty(gate), _empty(up)
        _run("bend_backward", _rows(gate), [grad.contiguous(), gate, up], [grad_gate, grad_up])
        return grad_gate, grad_up


def _bent(gate: Tensor, up: Tensor) -> Tensor:
    if torch.is_grad_enabled() or not _suits(gate, up):
        return F.silu(gate) * up
    made = _empty(gate)
    _run("bend", _rows(gate), [gate, up], [made])
    return made


class _Turn(torch.autograd.Function):
    """A rotation, and its inverse for the gradient. Differentiable twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, back=False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        (grad,) = gradients
        if torch.is_grad_enabled() or not (_suits(grad) and _token_after_token(grad)):
            return grad * cos + (grad * sin).roll(grad.shape[-1] // 2, -1), None, None
        return _turned(grad, cos, sin, back=True), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, *, back: bool) -> Tensor:
    made = torch.empty_like(x)  # lies as `x` does
    batch, heads, seq, head_dim = x.shape
    task = _Pass(batch * seq, heads * head_dim, head_dim, cos.shape[0] * seq, float(back))
    _run("turn", task, [x, cos, sin], [made])
    return made


def _token_after_token(x: Tensor) -> bool:
    """Whether `x` lies as a projection leaves it, the heads of a token side by side."""
    return x.transpose(1, 2).is_contiguous()


def _rows(x: Tensor, number: float = 0.0) -> _Pass:
    """The task of a kernel that takes the rows of `x`."""
    width = x.shape[-1]
    return _Pass(rows=x.numel() // max(1, width), width=width, number=number)


def _run(name: str, task: _Pass, given: list[Tensor], made: list[Tensor]) -> None:
    if is_imagined(made[0]):
        return
    task.given[:] = [each.data_ptr() for each in given] + [None] * (4 - len(given))
    task.made[:] = [each.data_ptr() for each in made] + [None] * (2 - len(made))
    KERNELS.run(f"luban_{name}", task, tasks=-(-made[0].numel() // PIECE))


def _empty(like: Tensor) -> Tensor:
    return torch.empty_like(like, memory_format=torch.contiguous_format)
