"""The feed-forward language model: the embeddings of the last few tokens, side by side, through a tanh layer.

An n-gram model whose contexts resemble each other: what is learned of one helps those with similar words.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import torch
from annotated_types import Ge
from jaxtyping import Float, Int
from torch import Tensor, nn

from luban.errors import ModelError
from luban.models.base import CausalLM, Shape, from_own_entries, own_entries
from luban.models.names import Names
from luban.nn.cache import Cache, Recurrent
from luban.nn.init import initialise, unset_embedding
from luban.nn.linear import Linear

NAMES = Names(
    modules={"embedding": "embedding", "blocks.*": "blocks.*", "head": "head"},
    prefix="",
    buffers=(),
    head="head.weight",
)


@dataclass(frozen=True, kw_only=True)
class FeedForwardConfig:
    """The numbers of one feed-forward language model."""

    model_type: Literal["feedforward"] = "feedforward"
    """Name of the family."""
    vocab: Annotated[int, Ge(1)]
    """Number of token ids."""
    dim: Annotated[int, Ge(1)]
    """Width of a token's embedding."""
    order: Annotated[int, Ge(2)] = 5
    """Length of the n-grams it models: it sees the last `order - 1` tokens."""
    layers: Annotated[int, Ge(1)] = 1
    """Tanh layers; the paper's model has one."""
    hidden: Annotated[int, Ge(0)] = 0
    """Width of the tanh layers; 0 means 4 times `dim`."""
    context: Annotated[int, Ge(1)]
    """Longest text it is declared for, in tokens; it reads any length."""
    bos_id: int | None = None
    """Id that begins a text."""
    eos_id: int | None = None
    """Id that ends an answer."""
    pad_id: int | None = None
    """Id that fills up shorter rows."""
    dtype: str = "float32"
    """Type of the weights: float32, bfloat16, float16."""

    heads = kv_heads = head_dim = 0  # nothing attends
    tied = False  # the head reads more than a token's embedding

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", self.hidden or 4 * self.dim)

    @property
    def window(self) -> int:
        """Width of the embeddings it sees, side by side."""
        return (self.order - 1) * self.dim

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Self:
        """Read what `to_hf` wrote; raises ModelError naming an unknown or missing entry."""
        return from_own_entries(cls, config)

    @classmethod
    def sized(cls, shape: Shape) -> Self:
        """A new model's config, its head never tied; raises ModelError for heads."""
        numbers = dict(vars(shape))
        del numbers["tied"]
        for name in ("heads", "kv_heads"):
            if value := numbers.pop(name):
                raise ModelError(f"{name} is {value}, but a feed-forward model has none")
        return cls(**numbers)

    def to_hf(self) -> dict[str, Any]:
        """The fields themselves: Hugging Face has no such family."""
        return own_entries(self)


class FeedForwardLM(CausalLM):
    """y = b + W x + U tanh(d + H x), where x is the last tokens' embeddings, the nearest first.

    `hidden` gives what `head`, which is [U W b], multiplies: the tanh layer, x, and a 1.

    Source: Bengio et al. 2003, "A Neural Probabilistic Language Model", section 2, eq. 1. Zeros stand for what
    would come before a text.
    """

    config: FeedForwardConfig

    def __init__(self, config: FeedForwardConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = unset_embedding(config.vocab, config.dim)
        widths = [config.window, *[config.hidden] * config.layers]
        self.blocks = nn.ModuleList(Linear(*pair) for pair in itertools.pairwise(widths))
        self.head = Linear(config.hidden + config.window + 1, config.vocab, bias=False)
        initialise(self, layers=config.layers, std=0.05)

    def hidden(
        self,
        tokens: Int[Tensor, "batch seq"] | None,
        positions: Int[Tensor, "batch seq"] | None = None,  # noqa: ARG002 - a place in the window is a column of H
        cache: Cache | None = None,
        embeds: Float[Tensor, "batch seq dim"] | None = None,
    ) -> Float[Tensor, "batch seq width"]:
        """What the head multiplies; see `CausalLM.hidden`."""
        (slot,) = [Recurrent()] if cache is None else cache
        x = self.embedding(tokens) if embeds is None else embeds
        x = state = side_by_side(x, self.config.order - 1, slot)
        for block in self.blocks:
            state = torch.tanh(block(state))
        return torch.cat([state, x, torch.ones_like(x[..., :1])], -1)

    def make_cache(self, *, batch: int, capacity: int, valid: Tensor | None = None) -> Cache:  # noqa: ARG002 - a window has no capacity
        """One slot: the embeddings that the next window still sees."""
        return [Recurrent(valid=valid)]

    def isolate(self, documents: Int[Tensor, "batch seq"]) -> Cache:
        """A slot for a pass over packed rows, whose windows end where their document begins."""
        return [Recurrent(documents=documents)]


def side_by_side(
    x: Float[Tensor, "batch seq dim"], count: int, slot: Recurrent
) -> Float[Tensor, "batch seq count_dim"]:
    """At each place its own vector and the `count - 1` before it, the nearest first.

    Zeros where there are none: before the text, at padding, and in a packed document's predecessor. `slot` keeps
    the last `count - 1` vectors.
    """
    batch, seq, dim = x.shape
    if (reads := slot.reads(seq)) is not None:
        x = x.masked_fill(~reads[..., None], 0.0)
    (before,) = slot.state or (x.new_zeros(batch, count - 1, dim),)
    known = torch.cat([before, x], 1)
    slot.state = (known[:, seq:],)
    back = [known[:, count - 1 - behind :][:, :seq] for behind in range(count)]
    if (begins := slot.begins()) is not None:
        place = torch.arange(seq, device=x.device)
        age = place - torch.where(begins, place, 0).cummax(1).values  # [batch, seq]
        back = [part.masked_fill((age < behind)[..., None], 0.0) for behind, part in enumerate(back)]
    return torch.cat(back, -1)
