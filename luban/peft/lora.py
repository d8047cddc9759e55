"""LoRA: what a layer learns is a product of two thin matrices, added to what it computes.

y = W x + (alpha / r) B A x         A [r, inputs] random, B [outputs, r] zero, so the start is the model itself
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt
from jaxtyping import Float
from torch import Tensor, nn

from luban.nn.linear import linear
from luban.peft.adapter import Adapter, Mergeable, attach_all

LAYERS = (nn.Linear, nn.Embedding)


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adaptation."""

    r: Annotated[int, Ge(1)] = 8
    """Rank: columns of B, rows of A."""
    lora_alpha: Annotated[float, Gt(0)] = 16.0
    """The change is scaled by this over `r` (over its root with `use_rslora`)."""
    lora_dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of the inputs to A that training leaves out."""
    target_modules: tuple[str, ...] = ("q", "v")
    """Layers by the ends of their names, as `luban models FOLDER --layers` lists them: q, attention.o, mlp.*, ..."""
    use_rslora: bool = False
    """Scale by alpha over the root of `r`: large ranks keep learning (Kalajdzievski 2023, arXiv:2312.03732)."""
    use_dora: bool = False
    """Learn each output's length apart from its direction (Liu et al. 2024, arXiv:2402.09353)."""

    @property
    def scale(self) -> float:
        """What B A x is multiplied by."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)


class Lora(Mergeable):
    """One layer's two thin matrices.

    Source: Hu et al. 2022, section 4.1 (arXiv:2106.09685); A is drawn as `nn.Linear` draws, B is zero; for an
    embedding A is zero and B normal, as `peft` has it.
    """

    def __init__(self, layer: Any, config: LoraConfig) -> None:
        super().__init__()
        self.looks_up = isinstance(layer, nn.Embedding)
        outputs, inputs = layer.weight.shape[::-1] if self.looks_up else layer.weight.shape
        self.scale, self.dropout = config.scale, config.lora_dropout
        self.a = nn.Parameter(torch.zeros(config.r, inputs))
        self.b = nn.Parameter(torch.zeros(outputs, config.r))
        if self.looks_up:
            nn.init.normal_(self.b)
        else:
            nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))
        length = torch.linalg.vector_norm(layer.weight.detach(), dim=0 if self.looks_up else 1)
        self.length = nn.Parameter(length.float()) if config.use_dora else None

    def after(self, layer: Any, x: Tensor, y: Tensor) -> Tensor:
        """See `Part.after`."""
        change = self._change(x) * (self.scale * self.share)
        if self.length is None:
            return y + change.to(y.dtype)
        bias = getattr(layer, "bias", None)
        straight = y if bias is None else y - bias
        turned = self._stretch(layer) * (straight + change.to(y.dtype))
        return turned if bias is None else turned + bias

    def delta(self, layer: Any) -> Float[Tensor, "outputs inputs"]:
        """See `Mergeable.delta`."""
        product = self.scale * (self.b @ self.a)
        product = product.t() if self.looks_up else product
        if self.length is None:
            return product
        stretch = self._stretch(layer)
        return (stretch if self.looks_up else stretch[:, None]) * (layer.weight + product) - layer.weight

    def tensors(self) -> dict[str, Tensor]:
        """See `Stored.tensors`."""
        length = {} if self.length is None else {"lora_magnitude_vector": self.length}
        if self.looks_up:
            return {"lora_embedding_A": self.a, "lora_embedding_B": self.b, **length}
        return {"lora_A.weight": self.a, "lora_B.weight": self.b, **length}

    def _change(self, x: Tensor) -> Tensor:
        if self.looks_up:
            return linear(F.embedding(x, self.a.t()), self.b)
        return linear(linear(F.dropout(x.to(self.a.dtype), self.dropout, self.training), self.a), self.b)

    def _stretch(self, layer: Any) -> Float[Tensor, " outputs"]:
        """The learnt length of each output over the one it has; no gradient goes through the latter."""
        assert self.length is not None
        product = self.scale * self.share * (self.b @ self.a)
        whole = layer.weight.detach() + (product.t() if self.looks_up else product).detach()
        return self.length / torch.linalg.vector_norm(whole, dim=0 if self.looks_up else 1)


def apply(model: Any, config: LoraConfig, *, name: str = "default") -> Adapter:
    """LoRA on the layers of `config.target_modules`; raises ConfigError where a name means none."""
    attach_all(model, config.target_modules, LAYERS, name, lambda layer: Lora(layer, config))
    return Adapter(model, "lora", config, name=name)
