"""LoRA: what a layer learns is a product of two thin matrices, added to what it computes.

y = W x + (alpha / r) B A x         A [r, inputs] random, B [outputs, r] zero, so the start is the model itself
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Self

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt
from jaxtyping import Float
from torch import Tensor, nn

from luban.errors import ConfigError
from luban.nn import surgery
from luban.nn.linear import linear
from luban.peft.adapter import Adapter, Mergeable, attach_all
from luban.peft.added import added
from luban.peft.targets import check_patterns, expanded, told

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
    """Layers by the ends of their names, ours (q, attention.o, mlp.*, ...) or Hugging Face's (q_proj);
    `all-linear` is every linear layer but the head."""
    rank_pattern: Mapping[str, Annotated[int, Ge(1)]] = field(default_factory=dict)
    """Other ranks for some layers, by pattern (in a config file); the first that fits a layer counts."""
    alpha_pattern: Mapping[str, Annotated[float, Gt(0)]] = field(default_factory=dict)
    """Other `lora_alpha` for some layers, by pattern."""
    use_rslora: bool = False
    """Scale by alpha over the root of `r`: large ranks keep learning (Kalajdzievski 2023, arXiv:2312.03732)."""
    use_dora: bool = False
    """Learn each output's length apart from its direction (Liu et al. 2024, arXiv:2402.09353)."""

    @property
    def scale(self) -> float:
        """What B A x is multiplied by."""
        return self.lora_alpha / rank_share(self.r, root=self.use_rslora)

    def at(self, place: str) -> Self:
        """The config of one layer: its own rank and alpha."""
        return dataclasses.replace(
            self,
            r=told(self.rank_pattern, place, self.r),
            lora_alpha=told(self.alpha_pattern, place, self.lora_alpha),
        )


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
        self.a = nn.Parameter(torch.empty(config.r, inputs))
        self.b = nn.Parameter(torch.empty(outputs, config.r))
        self.length = nn.Parameter(torch.empty(outputs)) if config.use_dora else None
        self.start(layer)

    @property
    def rank(self) -> int:
        """Columns of B that a file has."""
        return len(self.a)

    @torch.no_grad()
    def start(self, layer: Any) -> None:
        """Draw the weights so that they change nothing yet."""
        if self.looks_up:
            self.a.zero_()
            self.b.normal_()
        else:
            nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))
            self.b.zero_()
        if self.length is not None:
            length = torch.linalg.vector_norm(layer.weight.float(), dim=0 if self.looks_up else 1)
            self.length.copy_(length)

    def after(self, layer: Any, x: Tensor, y: Tensor) -> Tensor:
        """See `Part.after`."""
        if self.length is None:
            return self._changed(y, x, self.scale * self.share)
        bias = getattr(layer, "bias", None)
        straight = y if bias is None else y - bias
        turned = self._stretch(layer) * self._changed(straight, x, self.scale)
        return y + (self.share * (turned - straight)).to(y.dtype)

    def delta(self, layer: Any) -> Float[Tensor, "outputs inputs"]:
        """See `Mergeable.delta`."""
        product = self.scale * self.product()
        product = product.t() if self.looks_up else product
        if self.length is None:
            return product
        stretch = self._stretch(layer)
        return (stretch if self.looks_up else stretch[:, None]) * (layer.weight + product) - layer.weight

    def product(self) -> Float[Tensor, "outputs inputs"]:
        """B A, the change before it is scaled."""
        return self.b @ self.a

    def tensors(self) -> dict[str, Tensor]:
        """See `Stored.tensors`."""
        length = {} if self.length is None else {"lora_magnitude_vector": self.length}
        if self.looks_up:
            return {"lora_embedding_A": self.a, "lora_embedding_B": self.b, **length}
        return {"lora_A.weight": self.a, "lora_B.weight": self.b, **length}

    def _changed(self, y: Tensor, x: Tensor, scale: float) -> Tensor:
        """`y` and `scale` times the change, in the dtype of `y`."""
        if self.looks_up:
            return y + (linear(F.embedding(x, self.a.t()), self.b) * scale).to(y.dtype)
        return added(y, self._dropped(x), self.a, self.b, scale)

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x.to(self.a.dtype), self.dropout, self.training)

    def _stretch(self, layer: Any) -> Float[Tensor, " outputs"]:
        """The learnt length of each output over the one it has; no gradient goes through the latter."""
        assert self.length is not None
        product = (self.scale * self.product()).detach()
        whole = layer.weight.detach() + (product.t() if self.looks_up else product)
        return self.length / torch.linalg.vector_norm(whole, dim=0 if self.looks_up else 1)


class LowRank(Adapter):
    """An adapter whose every part is a `Lora`."""

    def lora(self) -> dict[str, Lora]:
        """Each layer's part, by the layer's name."""
        return {place: part for place, (_, part) in self.parts().items() if isinstance(part, Lora)}

    def entries(self, names: Mapping[str, str]) -> dict[str, Any]:
        """See `Adapter.entries`; ranks and alphas that are not the config's are told by layer."""
        return super().entries(names) | self.patterns(names, self.config)

    def patterns(self, names: Mapping[str, str], config: LoraConfig) -> dict[str, dict[str, float]]:
        """The ranks and alphas that are not `config`'s, by the files' names of layers.

        Layers that share a name there are stacked: one adapter of the sum of their ranks, of the first one's scale.
        """
        stacks: dict[str, list[Lora]] = {}
        for place, part in self.lora().items():
            stacks.setdefault(names[place], []).append(part)
        ranks = {theirs: sum(part.rank for part in parts) for theirs, parts in stacks.items()}
        alphas = {
            theirs: parts[0].scale * rank_share(ranks[theirs], root=config.use_rslora)
            for theirs, parts in stacks.items()
        }
        return {
            "rank_pattern": {theirs: rank for theirs, rank in ranks.items() if rank != config.r},
            "alpha_pattern": {
                theirs: alpha
                for theirs, alpha in alphas.items()
                if not math.isclose(alpha, config.lora_alpha)
            },
        }


def apply(model: Any, config: LoraConfig, *, name: str = "default") -> LowRank:
    """LoRA on the layers of `config.target_modules`; raises ConfigError where a name means none."""
    attach_low_rank(model, config, LAYERS, name, Lora)
    return LowRank(model, "lora", config, name=name)


def rank_share(r: int, *, root: bool) -> float:
    """What alpha is divided by for rank `r`: it, or its root (rsLoRA)."""
    return math.sqrt(r) if root else r


def attach_low_rank(model: Any, config: LoraConfig, kinds: tuple[type[nn.Module], ...], name: str,
                    make: Callable[[Any, Any], Lora]) -> None:  # fmt: skip
    """`make(layer, its config)` into each layer that `config` means; see `attach_all`."""
    patterns = expanded(model, config.target_modules)
    found = surgery.matching(model, patterns, *kinds)
    check_patterns(config.rank_pattern, list(found), where="rank_pattern")
    check_patterns(config.alpha_pattern, list(found), where="alpha_pattern")
    places = {layer: place for place, layer in found.items()}
    attach_all(model, patterns, kinds, name, lambda layer: make(layer, config.at(places[layer])))


def composed(adapters: Mapping[LowRank, float], *, name: str) -> LowRank:
    """One adapter that adds the changes of several, each times its share: its rank in a layer is the sum of theirs.

    They stay attached; `nn.surgery.shared(model, {name: 1.0})` lets the new one work alone. Raises ConfigError for
    DoRA, whose change is no product.
    """
    together: dict[str, list[tuple[Lora, float]]] = {}
    for adapter, share in adapters.items():
        for place, part in adapter.lora().items():
            together.setdefault(place, []).append((part, share))
    if any(part.length is not None for parts in together.values() for part, _ in parts):
        raise ConfigError("adapters with DoRA cannot be composed", hint="attach them side by side")
    ranks = {place: sum(part.rank for part, _ in parts) for place, parts in together.items()}
    r = max(ranks.values())
    config = LoraConfig(
        r=r, lora_alpha=r, target_modules=tuple(ranks), rank_pattern=ranks, alpha_pattern=dict(ranks)
    )
    made = apply(next(iter(adapters)).model, config, name=name)
    with torch.no_grad():
        for place, part in made.lora().items():
            a, b = (end for end in part.tensors().values())
            olds = [(*old.tensors().values(), old.scale * share) for old, share in together[place]]
            a.copy_(torch.cat([old_a for old_a, _, _ in olds]))
            b.copy_(torch.cat([old_b * scale for _, old_b, scale in olds], dim=1))
    return made
