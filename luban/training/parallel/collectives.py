"""Sums and joins over the processes that share a layer, with the gradients that belong to them.

A value that all of them hold alike enters their parts of a layer through `shared`, and what they compute from it in
parts becomes one value again through `summed` or `gathered`. Between the two each works on plain tensors of its own.

Source: Shoeybi et al. 2019, section 3: their f is `shared`, their g `summed` (arXiv:1909.08053).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

Group = dist.ProcessGroup


def shared(x: Tensor, group: Group) -> Tensor:
    """`x`, of which each process uses a part: its gradient is the sum over `group`."""
    return _Shared.apply(x, group)


def summed(x: Tensor, group: Group) -> Tensor:
    """The sum of every process's `x`, each of which gets the whole gradient."""
    return _Summed.apply(x, group)


def gathered(x: Float[Tensor, "... part"], sizes: list[int], group: Group) -> Float[Tensor, "... whole"]:
    """All processes' `x` side by side, `sizes` wide; each gets its own part of the gradient."""
    return _Gathered.apply(x, sizes, group)


def total(x: Tensor, group: Group, op: Any = dist.ReduceOp.SUM) -> Tensor:
    """`x` reduced over `group` in memory of its own; without a gradient."""
    told = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(told, op=op, group=group)
    return told


class _Shared(torch.autograd.Function):
    """The same forwards, a sum backwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return total(gradients[0], ctx.group), None


class _Summed(torch.autograd.Function):
    """A sum forwards, the same backwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:  # noqa: ARG004 - torch's
        return total(x, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004 - torch's
        return gradients[0], None


class _Gathered(torch.autograd.Function):
    """Parts joined forwards, the own one cut out backwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: list[int], group: Group) -> Tensor:
        ctx.sizes, ctx.place = sizes, dist.get_rank(group)
        widest = torch.nn.functional.pad(x, (0, max(sizes) - x.shape[-1])).contiguous()
        parts = [torch.empty_like(widest) for _ in sizes]
        dist.all_gather(parts, widest, group=group)
        return torch.cat([part[..., :size] for part, size in zip(parts, sizes, strict=True)], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0].split(ctx.sizes, -1)[ctx.place], None, None
