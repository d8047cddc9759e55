"""How much memory autograd keeps of a pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def bytes_saved(run: Callable[[], Any], *modules: nn.Module) -> int:
    """Bytes of the tensors that `run` leaves for its gradients, the parameters of `modules` not among them."""
    own = {weight.untyped_storage()._cdata for module in modules for weight in module.parameters()}
    kept: dict[int, Any] = {}  # held, as places are used again

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        made = run()
    del made
    return sum(storage.nbytes() for place, storage in kept.items() if place not in own)
