"""The n-gram model: how often each token followed the few before it, smoothed.

Nothing is trained: `luban pretrain --model ngram` counts. The tables are looked up on the CPU (`luban.ngram.backoff`),
whatever device they are kept on.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from annotated_types import Ge, Le
from jaxtyping import Float, Int
from torch import Tensor, nn

from luban.errors import ModelError, PromptError
from luban.models.base import CausalLM, Shape, from_own_entries, own_entries
from luban.models.names import Names
from luban.ngram.backoff import ABSENT, Backoff, Longer
from luban.ngram.counts import LONGEST
from luban.ngram.settings import Estimator
from luban.nn.cache import Cache, Recurrent
from luban.nn.init import unset_embedding

PARTS = ("logp", "backoff", "keys")

NAMES = Names(
    modules={"embedding": "embedding", **{f"blocks.*.{part}": f"blocks.*.{part}" for part in PARTS}},
    prefix="",
    buffers=(),
)


@dataclass(frozen=True, kw_only=True)
class NgramConfig:
    """The numbers of one n-gram model."""

    model_type: Literal["ngram"] = "ngram"
    """Name of the family."""
    vocab: Annotated[int, Ge(3)]
    """Number of token ids."""
    order: Annotated[int, Ge(1), Le(LONGEST)] = 5
    """Length of its n-grams: it sees the last `order - 1` tokens."""
    estimator: Literal[Estimator, "other"] = "kneser-ney"
    """How counts became probabilities; `other` for what an ARPA file brought."""
    sizes: tuple[int, ...] = ()
    """How many n-grams it holds of the orders 2, 3, ...; none means that nothing is counted yet."""
    context: Annotated[int, Ge(1)]
    """Longest text it is declared for, in tokens; it reads any length."""
    bos_id: int | None = None
    """Id that begins a text."""
    eos_id: int
    """Id that ends a text."""
    pad_id: int | None = None
    """Id that fills up shorter rows."""
    dtype: str = "float32"
    """Type of the log-probabilities: float32, bfloat16, float16."""

    dim = layers = heads = kv_heads = head_dim = hidden = 0  # tables, not layers
    tied = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", tuple(self.sizes) or (0,) * (self.order - 1))
        if len(self.sizes) != self.order - 1:
            raise ModelError(
                f"'sizes' has {len(self.sizes)} numbers, order {self.order} makes it {self.order - 1}"
            )
        for name in ("bos_id", "eos_id"):
            if not 0 <= (getattr(self, name) or 0) < self.vocab:
                raise ModelError(f"{name} is {getattr(self, name)}, of a vocabulary of {self.vocab}")

    @property
    def skips(self) -> bool:
        """See `Backoff`."""
        return self.estimator == "add-k"

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Self:
        """Read what `to_hf` wrote; raises ModelError naming an unknown or missing entry."""
        return from_own_entries(cls, config)

    @classmethod
    def sized(cls, shape: Shape) -> Self:
        """A new model's config, before counting; raises ModelError for heads, a width, or no id that ends texts."""
        for name in ("heads", "kv_heads", "hidden"):
            if value := getattr(shape, name):
                raise ModelError(f"{name} is {value}, but an n-gram model has none")
        if shape.eos_id is None:
            raise ModelError("an n-gram model counts where texts end: it needs an eos_id")
        return cls(
            vocab=shape.vocab,
            context=shape.context,
            bos_id=shape.bos_id,
            eos_id=shape.eos_id,
            pad_id=shape.pad_id,
        )

    def to_hf(self) -> dict[str, Any]:
        """The fields themselves: Hugging Face has no such family."""
        return own_entries(self)


class LongerNgrams(nn.Module):
    """All n-grams of one order above 1, as `backoff.Longer` says."""

    def __init__(self, count: int, *, highest: bool) -> None:
        super().__init__()
        self.logp = _fixed(torch.zeros(count))
        self.backoff = _fixed(torch.zeros(0 if highest else count))
        self.keys = _fixed(torch.arange(count))

    def arrays(self) -> Longer:
        """The same numbers for numpy, where they are if they are on the CPU."""
        return Longer(_array(self.keys), _array(self.logp.float()), _array(self.backoff.float()))


class NgramLM(CausalLM):
    """A language model that looks up what followed the last few tokens.

    `hidden` says where each place stands: of the last 0, 1, 2, ... tokens, which of the counted contexts it is.
    `head` makes log-probabilities of that; `logps` gives those of single tokens, which is much less work.
    """

    config: NgramConfig

    def __init__(self, config: NgramConfig) -> None:
        super().__init__()
        self.config = config
        # Of each token by itself, and in the last row of a text's start: log-probability and back-off weight.
        self.embedding = unset_embedding(config.vocab + 1, 2).requires_grad_(False)
        self.embedding.weight[:, 0] = -math.log(config.vocab)
        self.embedding.weight[:, 1] = 0.0
        orders = enumerate(config.sizes, 2)
        self.blocks = nn.ModuleList(LongerNgrams(size, highest=n == config.order) for n, size in orders)

    @classmethod
    def of(cls, config: NgramConfig, table: Backoff) -> NgramLM:
        """The model of a table; its numbers are not copied."""
        sizes = tuple(len(longer.keys) for longer in table.longer)
        with torch.device("meta"):
            model = cls(dataclasses.replace(config, order=table.order, sizes=sizes))
        weights = {"embedding.weight": torch.from_numpy(table.single)}
        for number, longer in enumerate(table.longer):
            weights |= {f"blocks.{number}.{part}": torch.from_numpy(getattr(longer, part)) for part in PARTS}
        model.load_state_dict(weights, assign=True)
        return model

    def table(self) -> Backoff:
        """The model's numbers, as numpy looks them up."""
        longer = [block.arrays() for block in self.blocks if isinstance(block, LongerNgrams)]
        return Backoff(_array(self.embedding.weight.float()), longer, skips=self.config.skips)

    def hidden(
        self,
        tokens: Int[Tensor, "batch seq"] | None,
        positions: Int[Tensor, "batch seq"] | None = None,  # noqa: ARG002 - only what stands before a token matters
        cache: Cache | None = None,
        embeds: Float[Tensor, "batch seq dim"] | None = None,
    ) -> Int[Tensor, "batch seq order"]:
        """Where each place stands; see `CausalLM.hidden`. Raises PromptError for `embeds` and unknown ids."""
        if tokens is None or embeds is not None:
            raise PromptError("an n-gram model reads tokens, not vectors in their place")
        (slot,) = [Recurrent()] if cache is None else cache
        (before,) = slot.state or (None,)
        begins = slot.begins()
        states = self.table().follow(
            _array(self._symbols(tokens, slot.reads(tokens.shape[1]))),
            None if before is None else _array(before),
            None if begins is None else _array(begins),
        )
        found = torch.from_numpy(states).to(tokens.device)
        slot.state = (found[:, -1],)
        return found

    def head(self, states: Int[Tensor, "*places order"]) -> Float[Tensor, "*places vocab"]:  # pyright: ignore[reportIncompatibleVariableOverride] - no matrix: the tables are the head
        """The log-probabilities, nats, of all tokens after each place of `states`."""
        found = torch.from_numpy(self.table().spread(_array(states.reshape(-1, self.config.order))))
        return found.view(*states.shape[:-1], self.config.vocab).to(states.device)

    def logps(
        self, states: Int[Tensor, "*places order"], targets: Int[Tensor, "*places"]
    ) -> Float[Tensor, "*places"]:
        """The log-probability, nats, of each target after its place: what `head` says of it, looked up alone."""
        return torch.from_numpy(self.table().score(_array(states), _array(targets))).to(states.device)

    def make_cache(self, *, batch: int, capacity: int, valid: Tensor | None = None) -> Cache:  # noqa: ARG002 - a place has no capacity
        """One slot: where the last token stands."""
        return [Recurrent(valid=valid)]

    def isolate(self, documents: Int[Tensor, "batch seq"]) -> Cache:
        """A slot for a pass over packed rows, in which nothing stands before a document."""
        return [Recurrent(documents=documents)]

    def _symbols(self, tokens: Tensor, reads: Tensor | None) -> Tensor:
        """The tokens, with what begins and ends a text as its start, and what is not to be read as nothing."""
        config = self.config
        if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < config.vocab:
            worst = int(tokens.max()) if int(tokens.max()) >= config.vocab else int(tokens.min())
            raise PromptError(f"token {worst} is not one of the model's {config.vocab}")
        bounds = tokens == config.eos_id
        if config.bos_id is not None:
            bounds = bounds | (tokens == config.bos_id)
        symbols = tokens.masked_fill(bounds, config.vocab)
        return symbols if reads is None else symbols.masked_fill(~reads, ABSENT)


def _fixed(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)


def _array(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy()
