"""Train the weights that say least: of each matrix the share with the smallest magnitudes, all others as they are.

What is learned is a vector of numbers to be added at those places. So the others cannot move, whatever optimizer and
weight decay do; memory and files hold the chosen few; and merging puts them in for good.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Gt, Le
from jaxtyping import Float
from torch import Tensor, nn

from luban.nn.linear import linear
from luban.peft.adapter import Adapter, Mergeable, attach_all


@dataclass(frozen=True, kw_only=True)
class SmallestConfig:
    """The weights of least magnitude."""

    density: Annotated[float, Gt(0), Le(1)] = 0.01
    """Share of each matrix's weights that is trained, at least one."""
    target_modules: tuple[str, ...] = ("blocks.*.*.*",)
    """Layers by the ends of their names."""


class Sparse(Mergeable):
    """What is added to the chosen weights of one matrix.

    Source: Liao et al. 2023, PaFi (arXiv:2305.16742); here the share is of each matrix.
    """

    def __init__(self, layer: Any, config: SmallestConfig) -> None:
        super().__init__()
        magnitudes = layer.weight.detach().float().abs().flatten()
        count = max(1, round(config.density * magnitudes.numel()))
        places = magnitudes.topk(count, largest=False).indices.sort().values
        self.indices = nn.Buffer(places.int() if magnitudes.numel() < 2**31 else places)
        self.values = nn.Parameter(torch.zeros(count))

    def after(self, layer: Any, x: Tensor, y: Tensor) -> Tensor:
        """See `Part.after`."""
        change = linear(x.to(self.values.dtype), self.delta(layer)) * self.share
        return y + change.to(y.dtype)

    def delta(self, layer: Any) -> Float[Tensor, "outputs inputs"]:
        """See `Mergeable.delta`."""
        whole = self.values.new_zeros(layer.weight.numel())
        return whole.index_put((self.indices.long(),), self.values).view(layer.weight.shape)

    def tensors(self) -> dict[str, Tensor]:
        """See `Stored.tensors`; the places count along the rows of the matrix."""
        return {"values": self.values, "indices": self.indices}


def apply(model: Any, config: SmallestConfig, *, name: str = "default") -> Adapter:
    """Changes of the smallest weights in `config.target_modules`; raises ConfigError where a name means none."""
    attach_all(model, config.target_modules, (nn.Linear,), name, lambda layer: Sparse(layer, config))
    return Adapter(model, "smallest", config, name=name)
