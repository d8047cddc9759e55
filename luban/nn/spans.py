"""Causal attention over spans: each query sees the keys from a start of its own up to itself.

Plain causal attention, packed documents and sliding windows are all spans. On a CPU in float32 PyTorch's kernel
computes what a mask then hides, through products that know no AVX-512 on AMD; the C++ beside this file does neither.
`suits` says when it applies: elsewhere, or without a C++ compiler, the caller goes the general way.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from luban.nn.kernels import Kernels, plain

SHORTEST, LONGEST = 16, 8192
"""Rows between which the kernel's buffers, a block of queries against the whole row, stay in a core's cache."""

KERNELS = Kernels(Path(__file__).with_suffix(".cpp"))


class _Place(ctypes.Structure):
    _fields_ = (
        ("at", ctypes.c_void_p),
        ("batch", ctypes.c_int64),
        ("head", ctypes.c_int64),
        ("token", ctypes.c_int64),
    )


class _Attention(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("batch", "heads", "kv_heads", "seq", "dim")),
        ("scale", ctypes.c_float),
        ("starts", ctypes.c_void_p),
        ("logs", ctypes.c_void_p),
        *((name, _Place) for name in ("q", "k", "v", "out", "grad_out", "grad_q", "grad_k", "grad_v")),
        ("next", ctypes.c_int64),
    )


def suits(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether `span_attention` takes these: float32 on a CPU, whole vectors in a head, and a compiler was found."""
    return (
        plain(q, k, v)
        and q.shape[-1] % 16 == 0
        and SHORTEST <= q.shape[2] == k.shape[2] <= LONGEST
        and not torch.is_autocast_enabled("cpu")
        and available()
    )


available, why_not = KERNELS.available, KERNELS.why_not
"""Whether the kernel can be built and run here, and what keeps it from that; `luban doctor` shows it."""


def span_attention(
    q: Float[Tensor, "batch heads seq head_dim"],
    k: Float[Tensor, "batch kv_heads seq head_dim"],
    v: Float[Tensor, "batch kv_heads seq head_dim"],
    starts: Int[Tensor, "batch seq"],
) -> Float[Tensor, "batch heads seq head_dim"]:
    """What each query gathers from the keys `starts` ... itself. Can be differentiated once.

    Source: the tiling and the recomputed probabilities are FlashAttention's, Dao et al. 2022 (arXiv:2205.14135),
    but for whole spans of scores instead of a running maximum.
    """
    return _attend(q, k, v, starts)[0]


@torch.library.custom_op("luban::span_attention", mutates_args=())
def _attend(q: Tensor, k: Tensor, v: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    out, logs = _empty(q), q.new_empty(q.shape[:3])
    _run("forward", starts, logs, q=q, k=k, v=v, out=out)
    return out, logs


@_attend.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG001 - torch's signature
    return _empty(q), q.new_empty(q.shape[:3])


@torch.library.custom_op("luban::span_attention_backward", mutates_args=())
def _differentiate(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, starts: Tensor, out: Tensor, logs: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    found = {"grad_q": _empty(q), "grad_k": _empty(k), "grad_v": _empty(v)}
    _run("backward", starts, logs, q=q, k=k, v=v, out=out, grad_out=grad, **found)
    return found["grad_q"], found["grad_k"], found["grad_v"]


@_differentiate.register_fake
def _(
    grad: Tensor,  # noqa: ARG001 - torch's signature
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts: Tensor,  # noqa: ARG001 - torch's signature
    out: Tensor,  # noqa: ARG001 - torch's signature
    logs: Tensor,  # noqa: ARG001 - torch's signature
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty(q), _empty(k), _empty(v)


def _remember(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *_differentiate(grad, *ctx.saved_tensors), None


_attend.register_autograd(_backward, setup_context=_remember)


def _empty(like: Tensor) -> Tensor:
    """Room for a tensor of this shape whose heads lie side by side, as the next projection reads them."""
    batch, heads, seq, head_dim = like.shape
    return like.new_empty(batch, seq, heads, head_dim).transpose(1, 2)


def _run(direction: str, starts: Tensor, logs: Tensor, **parts: Tensor) -> None:
    q, k = parts["q"], parts["k"]
    batch, heads, seq, dim = q.shape
    # Kept in names until the end: the C++ sees addresses only.
    placed = {name: part if part.stride(-1) == 1 else part.contiguous() for name, part in parts.items()}
    first = starts.expand(batch, seq).contiguous()
    task = _Attention(
        *(batch, heads, k.shape[1], seq, dim),
        dim**-0.5,
        first.data_ptr(),
        logs.data_ptr(),
        **{name: _Place(part.data_ptr(), *part.stride()[:3]) for name, part in placed.items()},
    )
    KERNELS.run(f"luban_spans_{direction}", task, tasks=batch * k.shape[1])
