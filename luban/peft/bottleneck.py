"""Adapters of two thin layers with a bend between them, after or beside a block's attention and MLP.

sequential   y + up(bend(down(y)))        Houlsby et al.: what comes out is looked at again; starts near the identity
parallel     y + s * up(bend(down(x)))    He et al.: what goes in is looked at a second time; starts as the identity

The bend is why no weight of the model can take them up: they cannot be merged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt
from jaxtyping import Float
from torch import Tensor, nn

from luban.errors import ConfigError
from luban.nn.linear import Linear
from luban.nn.mlp import ACTIVATIONS
from luban.peft.adapter import Adapter, Stored, attach_all

NEAR_ZERO = 0.01
"""The standard deviation of a sequential adapter's first weights; as Houlsby et al., cut at two of it."""


@dataclass(frozen=True, kw_only=True)
class BottleneckConfig:
    """Bottleneck adapters."""

    r: Annotated[int, Ge(1)] = 64
    """Width of the bottleneck."""
    kind: Literal["sequential", "parallel"] = "sequential"
    """Whether an adapter reads what its module gives (Houlsby et al.) or what the module gets (He et al.)."""
    target_modules: tuple[str, ...] = ("attention", "mlp")
    """Modules by the ends of their names; mlp alone is Pfeiffer et al. 2021 (arXiv:2005.00247)."""
    activation: Literal["gelu", "gelu_new", "relu"] = "relu"
    """What bends between the two layers."""
    scale: Annotated[float, Gt(0)] = 1.0
    """What an adapter gives is multiplied by this; He et al. take 4 for parallel ones."""


class Bottleneck(Stored):
    """One module's adapter: 2 r d + r + d weights where the module reads and gives d numbers.

    Source: Houlsby et al. 2019, section 2.1 (arXiv:1902.00751); He et al. 2022, section 4 (arXiv:2110.04366). Norms,
    which Houlsby et al. train as well, stay as they are.
    """

    def __init__(self, inputs: int, outputs: int, config: BottleneckConfig) -> None:
        super().__init__()
        self.parallel, self.scale = config.kind == "parallel", config.scale
        self.bend = ACTIVATIONS[config.activation]
        self.down = Linear(inputs if self.parallel else outputs, config.r)
        self.up = Linear(config.r, outputs)
        if self.parallel:
            nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
            nn.init.zeros_(self.up.weight)
        else:
            for layer in (self.down, self.up):
                nn.init.trunc_normal_(layer.weight, std=NEAR_ZERO, a=-2 * NEAR_ZERO, b=2 * NEAR_ZERO)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.bias)

    def after(
        self,
        layer: Any,  # noqa: ARG002 - the adapter has all it needs
        x: Float[Tensor, "... inputs"],
        y: Float[Tensor, "... outputs"],
    ) -> Float[Tensor, "... outputs"]:
        """See `Part.after`."""
        read = (x if self.parallel else y).to(self.down.weight.dtype)
        change = self.up(self.bend(self.down(read))) * (self.scale * self.share)
        return y + change.to(y.dtype)

    def tensors(self) -> dict[str, Tensor]:
        """See `Stored.tensors`."""
        layers = {"adapter_down": self.down, "adapter_up": self.up}
        return {
            f"{name}.{end}": value
            for name, layer in layers.items()
            for end, value in layer.named_parameters()
        }


def apply(model: Any, config: BottleneckConfig, *, name: str = "default") -> Adapter:
    """Adapters on the modules of `config.target_modules`; raises ConfigError where a name means none."""

    def make(layer: Any) -> Bottleneck:
        return Bottleneck(*_widths(layer, model.config.dim), config)

    attach_all(model, config.target_modules, (nn.Module,), name, make)
    return Adapter(model, "bottleneck", config, name=name)


def _widths(layer: Any, dim: int) -> tuple[int, int]:
    """How many numbers a module reads and gives for each token: those of the residual stream, if it is no matrix."""
    if isinstance(layer, nn.ModuleList | nn.Embedding) or next(layer.parameters(), None) is None:
        what = f"a {type(layer).__name__} turns no states into states: it cannot have a bottleneck adapter"
        raise ConfigError(what, where="target_modules", hint="attention and mlp have them as a rule")
    return (layer.in_features, layer.out_features) if isinstance(layer, nn.Linear) else (dim, dim)
