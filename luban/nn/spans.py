"""Causal attention over spans: each query sees the keys from a start of its own up to itself.

Plain causal attention, packed documents and sliding windows are all spans. On a CPU in float32 PyTorch's kernel
computes what a mask then hides, through products that know no AVX-512 on AMD; the C++ beside this file does neither.
`suits` says when it applies: elsewhere, or without a C++ compiler, the caller goes the general way.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from luban.errors import MachineError
from luban.native import build

SHORTEST, LONGEST = 16, 8192
"""Rows between which the kernel's buffers, a block of queries against the whole row, stay in a core's cache."""

PLAIN = {Tensor, nn.Parameter}
"""Kinds of tensors with memory of their own; who traces the code on fakes adds its kind for that while."""


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
        q.dtype == torch.float32 == k.dtype == v.dtype
        and q.is_cpu
        and all(type(part) in PLAIN for part in (q, k, v))
        and q.shape[-1] % 16 == 0
        and SHORTEST <= q.shape[2] == k.shape[2] <= LONGEST
        and not torch.is_autocast_enabled("cpu")
        and available()
    )


def available() -> bool:
    """Whether the kernel can be built and run here. While code is compiled nothing is built: ask once before."""
    return _looked == [None] if torch.compiler.is_compiling() else why_not() is None


def why_not() -> str | None:
    """What keeps the kernel from running here, or None; `luban doctor` shows it."""
    if not _looked:
        try:
            _library()
            _looked.append(None)
        except (MachineError, OSError) as error:
            _looked.append(str(error))
    return _looked[0]


_looked: list[str | None] = []
"""What `why_not` found, once it has looked."""


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
    library, openmp = _library()
    # The team of threads that PyTorch's own kernels run on: a second team would fight with it for the cores.
    threads = min(torch.get_num_threads(), batch * k.shape[1])
    openmp.GOMP_parallel(getattr(library, f"luban_spans_{direction}"), ctypes.byref(task), threads, 0)


@functools.cache
def _library() -> tuple[ctypes.CDLL, ctypes.CDLL]:
    """The kernel and PyTorch's OpenMP; raises MachineError or OSError where one is missing."""
    return build.load(Path(__file__).with_suffix(".cpp")), ctypes.CDLL("libgomp.so.1")
