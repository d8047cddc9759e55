"""IA3: every number of chosen layers is made larger or smaller by a learnt factor, and nothing else changes.

k = l_k * (W_k x), v = l_v * (W_v x), down(l * h)      each l is 1 at the start, so the start is the model itself
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from luban.errors import ConfigError
from luban.nn import surgery
from luban.peft.adapter import Adapter, Mergeable, attach_all
from luban.peft.targets import by_ends, expanded

FACTORS = "ia3_l"
"""What a file calls a layer's."""


@dataclass(frozen=True, kw_only=True)
class Ia3Config:
    """Learnt factors on what layers give, or take."""

    target_modules: tuple[str, ...] = ("k", "v", "down")
    """Layers by the ends of their names: k, attention.v, mlp.*, ...; `all-linear` is every one but the head."""
    feedforward_modules: tuple[str, ...] = ("down",)
    """Those of them whose inputs are scaled, not their outputs."""


class Factors(Mergeable):
    """One layer's factors: a row for its inputs, or a column for its outputs.

    Source: Liu et al. 2022, section 3.3 (arXiv:2205.05638).
    """

    def __init__(self, layer: nn.Linear, *, of_inputs: bool) -> None:
        super().__init__()
        outputs, inputs = layer.weight.shape
        self.of_inputs = of_inputs
        self.factors = nn.Parameter(torch.ones((1, inputs) if of_inputs else (outputs, 1)))

    def before(self, layer: Any, x: Tensor) -> Tensor:  # noqa: ARG002 - see `Part.before`
        """See `Part.before`."""
        return self._scaled(x) if self.of_inputs else x

    def after(self, layer: Any, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002 - see `Part.after`
        """See `Part.after`."""
        return y if self.of_inputs else self._scaled(y)

    def delta(self, layer: Any) -> Float[Tensor, "outputs inputs"]:
        """See `Mergeable.delta`."""
        return layer.weight * (self.factors - 1)

    def bias_delta(self, layer: Any) -> Float[Tensor, " outputs"] | None:
        """See `Mergeable.bias_delta`."""
        bias: Tensor | None = layer.bias
        return None if bias is None or self.of_inputs else bias * (self.factors.flatten() - 1)

    def tensors(self) -> dict[str, Tensor]:
        """See `Stored.tensors`."""
        return {FACTORS: self.factors}

    def _scaled(self, x: Tensor) -> Tensor:
        factors = self.factors.flatten()
        shared = factors if self.share == 1 else 1 + self.share * (factors - 1)
        return (x * shared).to(x.dtype)


class Ia3(Adapter):
    """The factors of all layers."""

    def entries(self, names: Mapping[str, str]) -> dict[str, Any]:
        """See `Adapter.entries`."""
        fed = {
            names[place]
            for place, (_, part) in self.parts().items()
            if isinstance(part, Factors) and part.of_inputs
        }
        return {**super().entries(names), "feedforward_modules": by_ends(fed, names)}


def read(held: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Any]:
    """See `Method.read`: factors of inputs are a row."""
    fed = (place for place, ends in held.items() if FACTORS in ends and len(ends[FACTORS]) == 1)
    return {"feedforward_modules": tuple(fed)}


def apply(model: Any, config: Ia3Config, *, name: str = "default") -> Adapter:
    """IA3 on the layers of `config.target_modules`; raises ConfigError where a name means none of them."""
    patterns = expanded(model, config.target_modules)
    targets = surgery.matching(model, patterns, nn.Linear)
    fed = surgery.matching(model, config.feedforward_modules, nn.Linear)
    if beside := sorted(set(fed) - set(targets)):
        what = f"'{beside[0]}' is meant by feedforward_modules but not by target_modules"
        raise ConfigError(what, where="peft.feedforward_modules")
    takes = {id(layer) for layer in fed.values()}
    attach_all(
        model, patterns, (nn.Linear,), name, lambda layer: Factors(layer, of_inputs=id(layer) in takes)
    )
    return Ia3(model, "ia3", config, name=name)
