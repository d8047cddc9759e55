"""The first attention: a GRU reads the source in both directions, another one writes, looking back at each step.

The decoder does not live on one summary of the source: its state asks, before every token, which places matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import torch
from annotated_types import Ge
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from luban.models.base import Shape, from_own_entries, own_entries
from luban.models.names import Names
from luban.models.rnn import recurrent_numbers
from luban.models.seq2seq import Seq2Seq, Source, check_start, start_token
from luban.nn.cache import Cache, DecoderSlot, Recurrent, Remembered
from luban.nn.init import initialise, unset_embedding
from luban.nn.linear import Linear
from luban.nn.recurrent import GRU, State, initialise_recurrences, scan

_OWN = (
    "embedding",
    "encoder.*.forwards.input",
    "encoder.*.forwards.recurrent",
    "encoder.*.backwards.input",
    "encoder.*.backwards.recurrent",
    "blocks.*.begin",
    "blocks.*.alignment.state",
    "blocks.*.alignment.source",
    "blocks.*.alignment.score",
    "blocks.*.cell.input",
    "blocks.*.cell.recurrent",
    "blocks.*.context",
    "blocks.*.input",
    "blocks.*.recurrent",
    "maxout",
    "head",
)
NAMES = Names(modules={name: name for name in _OWN}, prefix="", buffers=(), head="head.weight")


@dataclass(frozen=True, kw_only=True)
class RNNSearchConfig:
    """The numbers of one RNNsearch; every width that the paper names is `dim`."""

    model_type: Literal["rnnsearch"] = "rnnsearch"
    """Name of the family."""
    vocab: Annotated[int, Ge(1)]
    """Number of token ids, of source and target alike."""
    dim: Annotated[int, Ge(1)]
    """Width of embeddings, states, alignment and output."""
    layers: Annotated[int, Ge(1)] = 1
    """Layers of encoder and of decoder; the paper's model has one of each, and only the first one attends."""
    context: Annotated[int, Ge(1)]
    """Longest text it is declared for, in tokens; it reads any length."""
    decoder_start_id: Annotated[int, Ge(0)]
    """Token that every answer begins with."""
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

    heads = kv_heads = head_dim = 0  # its attention is not made of heads

    def __post_init__(self) -> None:
        check_start(self.decoder_start_id, self.vocab)

    @property
    def hidden(self) -> int:
        return self.dim

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Self:
        """Read what `to_hf` wrote; raises ModelError naming an unknown or missing entry."""
        return from_own_entries(cls, config)

    @classmethod
    def sized(cls, shape: Shape) -> Self:
        """A new model's config; raises ModelError as for an `RNNConfig`, and without a token to begin with."""
        return cls(**recurrent_numbers(shape), decoder_start_id=start_token(shape))

    def to_hf(self) -> dict[str, Any]:
        """The fields themselves: Hugging Face has no such family."""
        return own_entries(self)


class BothWays(nn.Module):
    """Each place of the source as a GRU knows it that came from the left, and one from the right.

    Source: Schuster and Paliwal 1997; Bahdanau et al. 2015, section 3.2.
    """

    def __init__(self, inputs: int, dim: int) -> None:
        super().__init__()
        self.forwards, self.backwards = GRU(inputs, dim), GRU(inputs, dim)

    def forward(
        self, x: Float[Tensor, "batch source inputs"], valid: Bool[Tensor, "batch source"] | None
    ) -> Float[Tensor, "batch source 2*dim"]:
        """Both states at each place; `valid` is False at padding, which changes neither."""
        mirrored = None if valid is None else valid.flip(1)
        right = self.backwards(x.flip(1), Recurrent(valid=mirrored)).flip(1)
        return torch.cat([self.forwards(x, Recurrent(valid=valid)), right], -1)


class Alignment(nn.Module):
    """Additive attention: e_j = v . tanh(W s + U h_j), the weights are its softmax, the context sums the h_j.

    Source: Bahdanau et al. 2015, section 3.1 and A.1.2.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.state = Linear(dim, dim, bias=False)
        self.source = Linear(2 * dim, dim, bias=False)
        self.score = Linear(dim, 1, bias=False)

    def remember(self, slot: Remembered, states: Float[Tensor, "batch source 2*dim"]) -> None:
        """Project the source, once for all steps."""
        if slot.keys is None:
            slot.fill(self.source(states), states)

    def forward(
        self, state: Float[Tensor, "batch dim"], slot: Remembered
    ) -> tuple[Float[Tensor, "batch 2*dim"], Float[Tensor, "batch source"]]:
        """The context for a step that begins in `state`, and how much each place of the source gave to it."""
        assert slot.keys is not None, "nothing is remembered yet"
        assert slot.values is not None
        scores = self.score(torch.tanh(self.state(state)[:, None] + slot.keys)).squeeze(-1)
        if slot.valid is not None:
            scores = scores.masked_fill(~slot.valid, -torch.inf)
        weights = scores.softmax(-1)
        return (weights[:, None] @ slot.values).squeeze(1), weights


class AttendingGRU(nn.Module):
    """The decoder's first layer: each step looks at the source with the state before it.

    Source: Bahdanau et al. 2015, section 3.1 and A.1.1, A.2.2; the GRU is `torch.nn`'s variant.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.begin = Linear(dim, dim)
        self.alignment = Alignment(dim)
        self.cell = GRU(dim, dim)
        self.context = Linear(2 * dim, 3 * dim, bias=False)

    def forward(
        self, x: Float[Tensor, "batch seq dim"], source: Source, slot: DecoderSlot
    ) -> list[Float[Tensor, "batch seq _"]]:
        """After each token of `x`: the state, the context it was made with, and that one's weights."""
        self.alignment.remember(slot.source, source.states)

        def step(x: Tensor, state: State) -> State:
            context, weights = self.alignment(state[0], slot.source)
            (after,) = self.cell.step(x + self.context(context), state[:1])
            return after, context, weights

        begun = slot.own.state or self._empty(source.states)
        states = scan(step, self.cell.input(x), slot.own, begun)
        return [torch.stack(part, 1) for part in zip(*states, strict=True)]

    def _empty(self, source: Float[Tensor, "batch source 2*dim"]) -> State:
        """The state before the first token: what the encoder knew when it had come from the right to the left."""
        state = torch.tanh(self.begin(source[:, 0, source.shape[-1] // 2 :]))
        return state, torch.zeros_like(source[:, 0]), torch.zeros_like(source[..., 0])


class RNNSearch(Seq2Seq):
    """The encoder-decoder that learned to align and translate.

    The output layer reads the new state, as in the paper's section 3.1 (its appendix writes the one before).

    Source: Bahdanau, Cho and Bengio 2015 (arXiv:1409.0473).
    """

    config: RNNSearchConfig

    def __init__(self, config: RNNSearchConfig) -> None:
        super().__init__()
        self.config = config
        dim, above = config.dim, range(config.layers - 1)
        self.embedding = unset_embedding(config.vocab, dim)
        self.encoder = nn.ModuleList([BothWays(dim, dim), *(BothWays(2 * dim, dim) for _ in above)])
        self.blocks = nn.ModuleList([AttendingGRU(dim), *(GRU(dim, dim) for _ in above)])
        self.maxout = Linear(4 * dim, 2 * dim)
        self.head = Linear(dim, config.vocab, bias=False)
        if config.tied:
            self.tie()
        initialise(self, layers=config.layers, std=0.1)
        initialise_recurrences(self)

    def encode(
        self, tokens: Int[Tensor, "batch source"], valid: Bool[Tensor, "batch source"] | None = None
    ) -> Source:
        """Read a batch of sources; `valid` is False at padding, on either side."""
        x = self.embedding(tokens)
        for layer in self.encoder:
            x = layer(x, valid)
        return Source(x, valid)

    def hidden(
        self,
        tokens: Int[Tensor, "batch seq"],
        source: Source,
        positions: Int[Tensor, "batch seq"] | None = None,  # noqa: ARG002 - the order of reading is the position
        cache: Cache | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """What the head reads: the larger of each two sums of state, token and context (maxout)."""
        x = self.embedding(tokens)
        if cache is None:
            cache = self.make_cache(source, batch=len(x), capacity=x.shape[1])
        state, context, _ = self.blocks[0](x, source, cache[0])
        for block, slot in zip(self.blocks[1:], cache[1:], strict=True):
            state = block(state, slot)
        return self.maxout(torch.cat([state, x, context], -1)).unflatten(-1, (-1, 2)).amax(-1)

    def attention_weights(
        self,
        source: Int[Tensor, "batch source"],
        tokens: Int[Tensor, "batch seq"],
        valid: Bool[Tensor, "batch source"] | None = None,
    ) -> Float[Tensor, "batch seq source"]:
        """How much each place of the source gives to the step after each of the decoder's `tokens`."""
        read = self.encode(source, valid)
        slot = DecoderSlot(Recurrent(), Remembered(valid))
        return self.blocks[0](self.embedding(tokens), read, slot)[2]

    def make_cache(self, source: Source, *, batch: int, capacity: int, valid: Tensor | None = None) -> Cache:  # noqa: ARG002 - a state has no capacity
        """See `Seq2Seq.make_cache`; only the first layer's slot knows of the source."""
        above = [Recurrent(valid=valid) for _ in self.blocks[1:]]
        return [DecoderSlot(Recurrent(valid=valid), Remembered(source.valid)), *above]
