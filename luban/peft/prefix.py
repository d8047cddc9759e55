"""Prefix tuning: keys and values of no word, learnt for every layer, that all tokens can attend to.

A soft prompt is read by the model, so each layer's keys and values of it follow from the layer before; here each
layer's are free. A projection may make all layers' out of one small matrix while training; a file holds what it makes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from luban.errors import ConfigError
from luban.nn.cache import Bias, Cache, causal_attention
from luban.peft.adapter import Adapter
from luban.peft.prepended import Hidden, Prepended, Prompt, Widened, check, prepend, words


@dataclass(frozen=True, kw_only=True)
class PrefixTuningConfig:
    """Learnt keys and values before every text."""

    num_virtual_tokens: Annotated[int, Ge(1)] = 20
    """How many keys and values each layer gets; each takes a place of the model's window."""
    prefix_projection: bool = False
    """Make them, while training, by a network out of one smaller matrix."""
    encoder_hidden_size: Annotated[int, Ge(0)] = 0
    """Width of that network; 0 means the model's."""
    init_words: bool = True
    """Begin with the keys and values of random tokens, not with noise; a projection always begins with noise."""


class Prefix(Prompt):
    """All layers' keys and values in a row per place, in `peft`'s order: layer by layer, keys first.

    Source: Li & Liang 2021, sections 4.2 and 4.3 (arXiv:2101.00190).
    """

    needs_slots = True

    def __init__(
        self,
        start: Float[Tensor, "length numbers"],
        projection: nn.Module | None,
        *,
        kv_heads: int,
        head_dim: int,
    ) -> None:
        super().__init__()
        self.length, self.kv_heads, self.head_dim = len(start), kv_heads, head_dim
        self.start = nn.Parameter(start.detach().float().clone())
        self.projection = projection

    def rows(self) -> Float[Tensor, "length numbers"]:
        """Everything, a row per place."""
        return self.start if self.projection is None else self.projection(self.start)

    def layers(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Each layer's keys and values, both [1, length, kv_heads, head_dim]."""
        parts = self.rows().view(1, self.length, -1, self.kv_heads, self.head_dim).unbind(2)
        return zip(parts[::2], parts[1::2], strict=True)

    def read(
        self, hidden: Hidden, x: Tensor, positions: Tensor, widened: Widened, slots: Cache | None
    ) -> Float[Tensor, "batch seq dim"]:
        """See `Prompt.read`."""
        assert slots is not None
        prefixed = [
            Prefixed(slot, keys, values, widened)
            for slot, (keys, values) in zip(slots, self.layers(), strict=True)
        ]
        return hidden(None, positions, prefixed, x)

    def begin(self, hidden: Hidden, slots: Cache, batch: int, dtype: torch.dtype) -> None:  # noqa: ARG002 - no token is read
        """See `Prompt.begin`."""
        for slot, pair in zip(slots, self.layers(), strict=True):
            k, v = (part.to(dtype).expand(batch, -1, -1, -1).transpose(1, 2) for part in pair)
            slot.attend(torch.zeros_like(k), k, v)  # what it gives is nobody's

    def tensors(self) -> dict[str, Tensor]:
        """See `Stored.tensors`; of a projection, what it makes."""
        return {"prompt_embeddings": self.rows()}

    def settle(self) -> None:
        """See `Prompt.settle`."""
        if self.projection is not None:
            self.start, self.projection = nn.Parameter(self.rows().detach().clone()), None


class Prefixed:
    """A layer's slot for widened rows whose keys and values before each document are learnt ones."""

    def __init__(self, slot: Any, keys: Tensor, values: Tensor, widened: Widened) -> None:
        self.slot, self.keys, self.values, self.widened = slot, keys, values, widened

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Bias | None = None) -> Tensor:
        """See `LayerCache.attend`."""
        nothing = q.new_zeros(1, self.widened.length, q.shape[1], q.shape[3])
        pairs = ((nothing, q), (self.keys, k), (self.values, v))
        wide = [self.widened.widen(prefix, x.transpose(1, 2)).transpose(1, 2) for prefix, x in pairs]
        gathered = self.slot.attend(*wide, bias)
        return self.widened.narrow(gathered.transpose(1, 2)).transpose(1, 2)


class Noted:
    """Plain causal attention that keeps what it was given."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Bias | None = None) -> Tensor:
        """See `LayerCache.attend`."""
        self.kept = k, v
        return causal_attention(q, k, v, bias)


class PrefixTuning(Prepended):
    """An adapter whose keys and values a projection may make while it is trained."""

    def entries(self, names: Mapping[str, str]) -> dict[str, Any]:
        """See `Adapter.entries`; `peft` counts the numbers and heads of keys here."""
        model, entries = self.model.config, super().entries(names)
        del entries["init_words"]
        size = self.config.encoder_hidden_size or model.dim
        heads = {"token_dim": model.kv_heads * model.head_dim, "num_attention_heads": model.kv_heads}
        return {**entries, **heads, "encoder_hidden_size": size}


def apply(model: Any, config: PrefixTuningConfig, *, name: str = "default") -> Adapter:
    """Learnt keys and values in every block; raises ConfigError for a model whose blocks do not all attend."""
    check(model)
    if not all(hasattr(slot, "attend") for slot in model.make_cache(batch=1, capacity=1)):
        what = f"a prefix is keys and values, and not every block of '{model.config.model_type}' attends"
        raise ConfigError(what, where="peft.method", hint="prompt_tuning")
    one, length = model.config.kv_heads * model.config.head_dim, config.num_virtual_tokens
    numbers, projection = 2 * len(model.blocks) * one, None
    if config.prefix_projection:
        hidden = config.encoder_hidden_size or model.config.dim
        projection = nn.Sequential(nn.Linear(one, hidden), nn.Tanh(), nn.Linear(hidden, numbers))
        start = torch.randn(length, one)
    else:
        start = _of_words(model, length) if config.init_words else torch.randn(length, numbers)
    sizes = {"kv_heads": model.config.kv_heads, "head_dim": model.config.head_dim}
    prepend(model, Prefix(start, projection, **sizes), name)
    return PrefixTuning(model, "prefix_tuning", config, name=name)


@torch.no_grad()
def _of_words(model: Any, length: int) -> Float[Tensor, "length numbers"]:
    """The keys and values that the model itself has of random tokens."""
    slots = [Noted() for _ in model.blocks]
    model.hidden(words(model, length)[None].to(model.embedding.weight.device), None, slots)
    kept = torch.stack(
        [part[0] for slot in slots for part in slot.kept]
    )  # [2 layers, kv_heads, length, head_dim]
    return kept.permute(2, 0, 1, 3).flatten(1)
