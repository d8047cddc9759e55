"""BART: an encoder reads a damaged text, a decoder writes it whole again.

The Transformer with GELU, learned positions and a norm after each sum; one matrix embeds both sides' tokens and is
the head. With `labels`, the decoder's last state tells what kind of text it read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import torch
from annotated_types import Ge
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from luban.errors import ModelError, PromptError
from luban.models.bart_files import HF_ENTRIES, head_entries, head_of
from luban.models.base import Shape, dtype_entry, from_entries
from luban.models.seq2seq import (
    Seq2Seq,
    Source,
    check_start,
    places_of,
    shifted_right,
    slots_for,
    start_token,
)
from luban.nn.attention import Attention, CrossAttention
from luban.nn.cache import Bidirectional, Cache, DecoderSlot, LayerCache
from luban.nn.init import initialise, unset_embedding
from luban.nn.linear import Linear
from luban.nn.mlp import MLP, Activation

UNUSED_PLACES = 2
"""Rows at the front of Hugging Face's tables of positions that no token gets."""
TP_PLAN = {
    "embedding|head": "vocabulary",
    "encoder.blocks.*.attention.q|k|v": "column",
    "encoder.blocks.*.attention.o": "row",
    "encoder.blocks.*.mlp.up": "column",
    "encoder.blocks.*.mlp.down": "row",
    "blocks.*.attention|cross.q|k|v": "column",
    "blocks.*.attention|cross.o": "row",
    "blocks.*.mlp.up": "column",
    "blocks.*.mlp.down": "row",
}


@dataclass(frozen=True, kw_only=True)
class BartConfig:
    """The numbers of one BART."""

    model_type: Literal["bart"] = "bart"
    """Hugging Face's name of the family."""
    vocab: Annotated[int, Ge(1)]
    """Number of token ids, shared by both sides."""
    dim: Annotated[int, Ge(1)]
    """Width of the residual stream."""
    layers: Annotated[int, Ge(1)]
    """Blocks of the decoder."""
    encoder_layers: Annotated[int, Ge(0)] = 0
    """Blocks of the encoder; 0 means as many as the decoder has."""
    heads: Annotated[int, Ge(1)]
    """Attention heads of the decoder."""
    encoder_heads: Annotated[int, Ge(0)] = 0
    """Attention heads of the encoder; 0 means as many as the decoder has."""
    hidden: Annotated[int, Ge(0)] = 0
    """Width inside the decoder's MLP; 0 means 4 times `dim`."""
    encoder_hidden: Annotated[int, Ge(0)] = 0
    """Width inside the encoder's MLP; 0 means the decoder's."""
    context: Annotated[int, Ge(1)]
    """Number of learned positions: the longest source, and the longest answer, in tokens."""
    activation: Activation = "gelu"
    """What bends inside the MLP."""
    scaled: bool = False
    """Multiply embeddings by `sqrt(dim)`."""
    final_bias: bool = True
    """Whether the logits have a bias, never trained and 0 in a new model; files of `BartModel` lack it."""
    labels: tuple[str, ...] = ()
    """Kinds of text that a classification head tells apart; without them the model writes."""
    decoder_start_id: Annotated[int, Ge(0)]
    """The token every answer begins with; it is not part of the answer."""
    bos_id: int | None = None
    """Id that begins a text."""
    eos_id: int | tuple[int, ...] | None = None
    """Id, or ids, that end an answer."""
    pad_id: int | None = None
    """Id that fills up shorter rows."""
    dtype: str = "float32"
    """Type of the weights: float32, bfloat16, float16."""

    def __post_init__(self) -> None:
        own = {"hidden": 4 * self.dim, "encoder_layers": self.layers, "encoder_heads": self.heads}
        for name, value in own.items():
            object.__setattr__(self, name, getattr(self, name) or value)
        object.__setattr__(self, "encoder_hidden", self.encoder_hidden or self.hidden)
        for name in ("heads", "encoder_heads"):
            if self.dim % getattr(self, name):
                raise ModelError(f"dim {self.dim} is not a multiple of {name} {getattr(self, name)}")
        check_start(self.decoder_start_id, self.vocab)

    @property
    def tied(self) -> bool:
        return True

    @property
    def kv_heads(self) -> int:
        return self.heads

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Self:
        """Read an HF `config.json`; raises ModelError naming a missing or unsupported entry."""
        return from_entries(cls, config, HF_ENTRIES, **head_of(config), dtype=dtype_entry(config))

    @classmethod
    def sized(cls, shape: Shape) -> Self:
        """A new model's config: heads of 64, an MLP 4 times as wide as the stream, as deep on both sides."""
        heads = shape.ungrouped_heads()
        if not shape.tied:
            raise ModelError("BART's head is its embedding: tied=false is not possible")
        return cls(
            vocab=shape.vocab,
            dim=shape.dim,
            layers=shape.layers,
            heads=heads,
            hidden=shape.hidden,
            context=shape.context,
            decoder_start_id=start_token(shape),
            bos_id=shape.bos_id,
            eos_id=shape.eos_id,
            pad_id=shape.pad_id,
        )

    def to_hf(self) -> dict[str, Any]:
        """HF's `config.json`. Nothing is dropped out in training here, and it says so."""
        return {
            "model_type": self.model_type,
            **{entry: getattr(self, field) for entry, field in HF_ENTRIES.items()},
            **head_entries(self.labels, final_bias=self.final_bias),
            "is_encoder_decoder": True,
            "tie_word_embeddings": True,
            "dropout": 0.0,
            "attention_dropout": 0.0,
            "activation_dropout": 0.0,
            "dtype": self.dtype,
            "torch_dtype": self.dtype,
        }


class Stem(nn.Module):
    """What enters the blocks: embeddings with their learned positions, normed."""

    def __init__(self, config: BartConfig) -> None:
        super().__init__()
        self.positions = unset_embedding(config.context + UNUSED_PLACES, config.dim)
        self.norm = nn.LayerNorm(config.dim)
        self.context = config.context

    def forward(
        self, embeds: Float[Tensor, "batch seq dim"], places: Int[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq dim"]:
        """Raises PromptError past the last position."""
        if places.is_cpu and not torch.compiler.is_compiling() and int(places.max()) >= self.context:
            # Elsewhere looking at the numbers would make the host wait; the lookup itself fails there.
            what = (
                f"position {int(places.max())} is beyond the {self.context} positions this model has learned"
            )
            raise PromptError(what, hint="a shorter text")
        return self.norm(embeds + self.positions(places + UNUSED_PLACES))


class EncoderBlock(nn.Module):
    """Attention, then MLP, each added to the stream, which is then normed."""

    def __init__(self, dim: int, *, heads: int, hidden: int, activation: Activation) -> None:
        super().__init__()
        self.attention = Attention(
            dim, heads=heads, kv_heads=heads, head_dim=dim // heads, qkv_bias=True, out_bias=True
        )
        self.attention_norm = nn.LayerNorm(dim)
        self.mlp = MLP(dim, hidden, activation)
        self.mlp_norm = nn.LayerNorm(dim)

    def forward(
        self, x: Float[Tensor, "batch seq dim"], slot: LayerCache | None = None
    ) -> Float[Tensor, "batch seq dim"]:
        x = self.attention_norm(x + self.attention(x, slot=slot))
        return self.mlp_norm(x + self.mlp(x))


class DecoderBlock(EncoderBlock):
    """An encoder's block that looks at the source between its attention and its MLP."""

    def __init__(self, dim: int, *, heads: int, hidden: int, activation: Activation) -> None:
        super().__init__(dim, heads=heads, hidden=hidden, activation=activation)
        self.cross = CrossAttention(dim, heads=heads, head_dim=dim // heads)
        self.cross_norm = nn.LayerNorm(dim)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] - a decoder's block also takes the source
        self, x: Float[Tensor, "batch seq dim"], source: Float[Tensor, "batch source dim"], slot: DecoderSlot
    ) -> Float[Tensor, "batch seq dim"]:
        x = self.attention_norm(x + self.attention(x, slot=slot.own))
        x = self.cross_norm(x + self.cross(x, source, slot.source))
        return self.mlp_norm(x + self.mlp(x))


class Encoder(nn.Module):
    """Embeddings in, states out, each having seen all others."""

    def __init__(self, config: BartConfig) -> None:
        super().__init__()
        self.stem = Stem(config)
        self.blocks = nn.ModuleList(
            EncoderBlock(
                config.dim,
                heads=config.encoder_heads,
                hidden=config.encoder_hidden,
                activation=config.activation,
            )
            for _ in range(config.encoder_layers)
        )

    def forward(
        self, embeds: Float[Tensor, "batch source dim"], valid: Bool[Tensor, "batch source"] | None
    ) -> Float[Tensor, "batch source dim"]:
        x = self.stem(embeds, places_of(embeds, valid))
        slot = Bidirectional(valid)
        for block in self.blocks:
            x = block(x, slot)
        return x


class Classifier(nn.Module):
    """Logits of the labels from one state of the decoder."""

    def __init__(self, dim: int, labels: int) -> None:
        super().__init__()
        self.dense = Linear(dim, dim)
        self.out = Linear(dim, labels)

    def forward(self, state: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch labels"]:
        return self.out(torch.tanh(self.dense(state)))


class Bart(Seq2Seq):
    """A BART.

    Source: Lewis et al. 2020 (arXiv:1910.13461), section 2.1; weights start at `1/sqrt(dim)` where the paper, for
    widths of 768 and 1024, has 0.02: with that a narrow model does not learn to look at its source.
    """

    config: BartConfig

    def __init__(self, config: BartConfig) -> None:
        super().__init__()
        self.config = config
        self.scale = math.sqrt(config.dim) if config.scaled else 1.0
        self.embedding = unset_embedding(config.vocab, config.dim)
        self.encoder = Encoder(config)
        self.stem = Stem(config)
        self.blocks = nn.ModuleList(
            DecoderBlock(config.dim, heads=config.heads, hidden=config.hidden, activation=config.activation)
            for _ in range(config.layers)
        )
        self.head = Linear(config.dim, config.vocab, bias=False)
        self.final_bias = nn.Parameter(torch.zeros(1, config.vocab), False) if config.final_bias else None
        self.classifier = Classifier(config.dim, len(config.labels)) if config.labels else None
        self.tie()
        initialise(self, layers=config.layers, std=config.dim**-0.5)

    def encode(
        self,
        tokens: Int[Tensor, "batch source"] | None,
        valid: Bool[Tensor, "batch source"] | None = None,
        embeds: Float[Tensor, "batch source dim"] | None = None,
    ) -> Source:
        """See `Seq2Seq.encode`; positions count from each source's first valid token. `embeds` replaces `tokens`."""
        entering = self.embedding(tokens) * self.scale if embeds is None else embeds
        return Source(self.encoder(entering, valid), valid)

    def hidden(
        self,
        tokens: Int[Tensor, "batch seq"],
        source: Source,
        positions: Int[Tensor, "batch seq"] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """See `Seq2Seq.hidden`. Raises PromptError past the last position."""
        x = self.stem(
            self.embedding(tokens) * self.scale, places_of(tokens) if positions is None else positions
        )
        slots = slots_for(source, len(self.blocks)) if cache is None else cache
        for block, slot in zip(self.blocks, slots, strict=True):
            x = block(x, source.states, slot)
        return x

    def head_bias(self) -> Float[Tensor, " vocab"] | None:
        """See `Seq2Seq.head_bias`."""
        return None if self.final_bias is None else self.final_bias[0]

    def classify(
        self, tokens: Int[Tensor, "batch seq"], valid: Bool[Tensor, "batch seq"] | None = None
    ) -> Float[Tensor, "batch labels"]:
        """Logits of the labels: the decoder reads the text once more, up to its last end token.

        Padding stands on the right. Raises PromptError for a text without an end token.

        Source: Lewis et al. 2020, section 3.1.
        """
        assert self.classifier is not None, "a model without labels"
        assert self.config.eos_id is not None, "a classifier's config names its end token"
        ends = torch.isin(tokens, torch.tensor(self.config.eos_id, device=tokens.device))
        if not bool(ends.any(1).all()):
            row = int((~ends.any(1)).nonzero()[0])
            raise PromptError(
                f"text {row} has no end token {self.config.eos_id}, from which it is classified"
            )
        start, pad = self.config.decoder_start_id, self.config.pad_id or 0
        again = shifted_right(tokens, start=start, ignored=-1, pad=pad)
        states = self.hidden(again, self.encode(tokens, valid))
        last = (ends * places_of(tokens)).argmax(1)
        return self.classifier(states[torch.arange(len(tokens), device=tokens.device), last])
