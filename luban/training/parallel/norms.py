"""One norm over the gradients of all processes, each number of the model counted once.

A process may hold a part of a parameter (FSDP, tensor parallel: a DTensor says along which axes), the whole of one
that others hold too (equal gradients everywhere, counted here), or parameters that no other stage of a pipeline has.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from luban.training.parallel.world import Axis, World

_AXES: tuple[Axis, ...] = ("dp", "tp")


def local(tensor: Tensor) -> Tensor:
    """What this process holds of `tensor`: its part of a DTensor, in the same memory; a plain tensor whole."""
    return tensor if _mesh(tensor) is None else cast(Any, tensor).to_local()


def is_part(tensor: Tensor) -> bool:
    """Whether other processes hold the rest of `tensor` (a DTensor), or copies that it knows of."""
    return _mesh(tensor) is not None


def global_norm(parameters: Iterable[nn.Parameter], world: World) -> float:
    """The norm of all gradients as they are now, the same number on every process.

    Gradients must be whole or sharded, not waiting for a sum. Where two stages of a pipeline hold one parameter
    (a tied head), one of them leaves it out. Every process calls this at the same time.
    """
    found: dict[tuple[Axis, ...], list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            found.setdefault(_spread_over(parameter.grad), []).append(local(parameter.grad))
    squares = {axes: _square(gradients) for axes, gradients in found.items()}
    # The same sums on every process, whatever it has gradients of: else they would wait for each other.
    both, of_tp = world.total(squares.get(("dp", "tp"), 0.0), squares.get(("tp",), 0.0), axis="tp")
    both, of_dp = world.total(both, squares.get(("dp",), 0.0), axis="dp")
    (total,) = world.total(squares.get((), 0.0) + of_tp + of_dp + both, axis="pp")
    return total**0.5


def _spread_over(gradient: Tensor) -> tuple[Axis, ...]:
    """The axes along which processes hold different parts of `gradient`."""
    mesh = _mesh(gradient)
    if mesh is None:
        return ()
    placements = cast(Any, gradient).placements
    assert not any(placement.is_partial() for placement in placements), "a gradient still to be summed"
    names = {
        name
        for name, placement in zip(mesh.mesh_dim_names, placements, strict=True)
        if not placement.is_replicate()
    }
    return tuple(axis for axis in _AXES if axis in names)


def _mesh(tensor: Tensor) -> Any:
    """A DTensor's mesh; None for a plain tensor (whose class need not be imported to know)."""
    return getattr(tensor, "device_mesh", None)


def _square(gradients: list[Tensor]) -> float:
    return torch.stack(torch._foreach_norm(gradients)).double().square().sum().item()
