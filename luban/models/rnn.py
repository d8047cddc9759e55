"""Recurrent language models: an embedding, layers of one kind of unit, a head.

The state is all that is remembered: it costs the same after any number of tokens, and what it has let go of is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge
from jaxtyping import Float, Int
from torch import Tensor, nn

from luban.errors import ModelError
from luban.models.base import CausalLM, Shape, from_own_entries, own_entries
from luban.models.names import Names
from luban.nn.cache import Cache, Recurrent
from luban.nn.init import initialise, unset_embedding
from luban.nn.linear import Linear
from luban.nn.recurrent import GRU, LSTM, RNN, initialise_recurrences

UNITS = {"rnn": RNN, "lstm": LSTM, "gru": GRU}
"""By `model_type`."""

EMBEDDING_STD = 0.2
"""Of the first embeddings; no norm enlarges them on their way in, as it does in a Transformer."""

NAMES = Names(
    modules={
        "embedding": "embedding",
        "blocks.*.input": "blocks.*.input",
        "blocks.*.recurrent": "blocks.*.recurrent",
        "head": "head",
    },
    prefix="",
    buffers=(),
    head="head.weight",
)


@dataclass(frozen=True, kw_only=True)
class RNNConfig:
    """The numbers of one recurrent language model."""

    model_type: Literal["rnn", "lstm", "gru"]
    """Kind of its units."""
    vocab: Annotated[int, Ge(1)]
    """Number of token ids."""
    dim: Annotated[int, Ge(1)]
    """Width of the embedding and units in each layer."""
    layers: Annotated[int, Ge(1)]
    """Recurrent layers."""
    context: Annotated[int, Ge(1)]
    """Longest text it is declared for, in tokens; it reads any length."""
    tied: bool = True
    """Share the embedding with the head."""
    bos_id: int | None = None
    """Id that begins a text."""
    eos_id: int | None = None
    """Id that ends an answer."""
    pad_id: int | None = None
    """Id that fills up shorter rows."""
    dtype: str = "float32"
    """Type of the weights: float32, bfloat16, float16."""

    heads = kv_heads = head_dim = 0  # nothing attends

    @property
    def hidden(self) -> int:
        return self.dim

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Self:
        """Read what `to_hf` wrote; raises ModelError naming an unknown or missing entry."""
        return from_own_entries(cls, config)

    @classmethod
    def sized(cls, shape: Shape) -> Self:
        """A new model's config; raises ModelError for heads, and for states that are not as wide as `dim`."""
        return cls(**recurrent_numbers(shape))

    def to_hf(self) -> dict[str, Any]:
        """The fields themselves: Hugging Face has no such family."""
        return own_entries(self)


class RecurrentLM(CausalLM):
    """A language model that reads its text token by token.

    Source: Mikolov et al. 2010 for the RNN, Sundermeyer et al. 2012 for the LSTM; the tied head, Inan et al. 2017
    (arXiv:1611.01462).
    """

    entrance = ("embedding",)
    config: RNNConfig

    def __init__(self, config: RNNConfig) -> None:
        super().__init__()
        self.config = config
        unit = UNITS[config.model_type]
        self.embedding = unset_embedding(config.vocab, config.dim)
        self.blocks = nn.ModuleList(unit(config.dim, config.dim) for _ in range(config.layers))
        self.head = Linear(config.dim, config.vocab, bias=False)
        if config.tied:
            self.tie()
        initialise(self, layers=config.layers, std=EMBEDDING_STD)
        initialise_recurrences(self)

    def hidden(
        self,
        tokens: Int[Tensor, "batch seq"] | None,
        positions: Int[Tensor, "batch seq"] | None = None,  # noqa: ARG002 - the order of reading is the position
        cache: Cache | None = None,
        embeds: Float[Tensor, "batch seq dim"] | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """The last layer's states; see `CausalLM.hidden`."""
        return self.run_blocks(self.embedding(tokens) if embeds is None else embeds, cache)

    def make_cache(self, *, batch: int, capacity: int, valid: Tensor | None = None) -> Cache:  # noqa: ARG002 - a state has no capacity
        """See `CausalLM.make_cache`; a state takes the same room for any length."""
        return [Recurrent(valid=valid) for _ in self.blocks]

    def isolate(self, documents: Int[Tensor, "batch seq"]) -> Cache:
        """Slots for a pass over packed rows, in which each document begins with an empty state."""
        return [Recurrent(documents=documents) for _ in self.blocks]


def recurrent_numbers(shape: Shape) -> dict[str, Any]:
    """What `shape` says, for a config without heads whose states are as wide as its embedding."""
    numbers = dict(vars(shape))
    for name, can in {"heads": (0,), "kv_heads": (0,), "hidden": (0, shape.dim)}.items():
        value = numbers.pop(name)
        if value not in can:
            choices = " or ".join(str(number) for number in can)
            raise ModelError(
                f"{name} is {value} for a model of type '{shape.model_type}'; it can be {choices}"
            )
    return numbers
