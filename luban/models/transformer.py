"""The Transformer of 2017: an encoder reads the source, a decoder writes the answer and looks back at it.

Norms stand after each sum, as in the paper, or before each part (`norm: pre`), which trains without a long
warm-up. Positions are sinusoids added to embeddings that are scaled by `sqrt(dim)`. Nothing is dropped out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import torch
from annotated_types import Ge, Gt
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from luban.errors import ModelError
from luban.models.base import Shape, from_own_entries, own_entries
from luban.models.names import Names
from luban.models.seq2seq import Seq2Seq, Source, check_start, slots_for, start_token
from luban.nn.attention import Attention, CrossAttention
from luban.nn.cache import Bidirectional, Cache, DecoderSlot, LayerCache
from luban.nn.init import initialise, unset_embedding
from luban.nn.linear import Linear
from luban.nn.mlp import MLP
from luban.nn.positions import sinusoids

ATTENTION = ("q", "k", "v", "o")
MLP_PARTS = ("mlp_norm", "mlp.up", "mlp.down")
ENCODER_PARTS = ("attention_norm", *(f"attention.{part}" for part in ATTENTION), *MLP_PARTS)
DECODER_PARTS = (*ENCODER_PARTS, "cross_norm", *(f"cross.{part}" for part in ATTENTION))
MODULES = (
    "embedding",
    *(f"encoder.*.{part}" for part in ENCODER_PARTS),
    "encoder_norm",
    *(f"blocks.*.{part}" for part in DECODER_PARTS),
    "norm",
    "head",
)
NAMES = Names(modules={name: name for name in MODULES}, prefix="", buffers=(), head="head.weight")
TP_PLAN = {
    "embedding|head": "vocabulary",
    "encoder|blocks.*.attention|cross.q|k|v": "column",
    "encoder|blocks.*.attention|cross.o": "row",
    "encoder|blocks.*.mlp.up": "column",
    "encoder|blocks.*.mlp.down": "row",
}


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The numbers of one encoder-decoder."""

    model_type: Literal["transformer"] = "transformer"
    """Name of the family; there is no Hugging Face class of it."""
    vocab: Annotated[int, Ge(1)]
    """Number of token ids, shared by both sides."""
    dim: Annotated[int, Ge(2)]
    """Width of the residual stream."""
    layers: Annotated[int, Ge(1)]
    """Blocks of the decoder."""
    encoder_layers: Annotated[int, Ge(0)] = 0
    """Blocks of the encoder; 0 means as many as the decoder has."""
    heads: Annotated[int, Ge(1)]
    """Attention heads."""
    hidden: Annotated[int, Ge(0)] = 0
    """Width inside the MLP; 0 means 4 times `dim`."""
    context: Annotated[int, Ge(1)]
    """Longest source and longest answer the model is meant for, in tokens."""
    norm: Literal["post", "pre"] = "pre"
    """Where LayerNorm stands: after each sum (the paper), or before each part, with one more at the end."""
    norm_eps: Annotated[float, Gt(0)] = 1e-5
    """Added to the variance before its root is taken."""
    tied: bool = True
    """Share the embedding with the head."""
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
        if self.dim % self.heads:
            raise ModelError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        if self.dim % 2:
            raise ModelError(f"dim {self.dim} is odd; sinusoids come in pairs of sine and cosine")
        check_start(self.decoder_start_id, self.vocab)
        object.__setattr__(self, "hidden", self.hidden or 4 * self.dim)
        object.__setattr__(self, "encoder_layers", self.encoder_layers or self.layers)

    @property
    def kv_heads(self) -> int:
        return self.heads

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Self:
        """Read `config.json`, which holds these fields; raises ModelError naming a missing or unknown one."""
        return from_own_entries(cls, config)

    @classmethod
    def sized(cls, shape: Shape) -> Self:
        """A new model's config: heads of 64, an MLP 4 times as wide as the stream, as deep on both sides."""
        heads = shape.ungrouped_heads()
        return cls(
            vocab=shape.vocab,
            dim=shape.dim,
            layers=shape.layers,
            heads=heads,
            hidden=shape.hidden,
            context=shape.context,
            tied=shape.tied,
            decoder_start_id=start_token(shape),
            bos_id=shape.bos_id,
            eos_id=shape.eos_id,
            pad_id=shape.pad_id,
        )

    def to_hf(self) -> dict[str, Any]:
        """The fields, as `from_hf` reads them."""
        return own_entries(self)


class EncoderBlock(nn.Module):
    """Attention, then MLP, each added to the stream, which is normed before or after."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.pre = config.norm == "pre"
        self.attention_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.attention = _attention(config)
        self.mlp_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.mlp = MLP(config.dim, config.hidden, "relu")

    def forward(
        self, x: Float[Tensor, "batch seq dim"], slot: LayerCache | None = None
    ) -> Float[Tensor, "batch seq dim"]:
        x = self.added(x, self.attention_norm, lambda normed: self.attention(normed, slot=slot))
        return self.added(x, self.mlp_norm, self.mlp)

    def added(self, x: Tensor, norm: nn.LayerNorm, part: Callable[[Tensor], Tensor]) -> Tensor:
        """`x` with what `part` makes of it added, normed on the way in or on the way out."""
        return x + part(norm(x)) if self.pre else norm(x + part(x))


class DecoderBlock(EncoderBlock):
    """An encoder's block that looks at the source between its attention and its MLP."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.cross_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.cross = CrossAttention(config.dim, heads=config.heads, head_dim=config.head_dim)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] - a decoder's block also takes the source
        self, x: Float[Tensor, "batch seq dim"], source: Float[Tensor, "batch source dim"], slot: DecoderSlot
    ) -> Float[Tensor, "batch seq dim"]:
        x = self.added(x, self.attention_norm, lambda normed: self.attention(normed, slot=slot.own))
        x = self.added(x, self.cross_norm, lambda normed: self.cross(normed, source, slot.source))
        return self.added(x, self.mlp_norm, self.mlp)


class Transformer(Seq2Seq):
    """An encoder-decoder.

    Source: Vaswani et al. 2017 (arXiv:1706.03762); pre-norm: Xiong et al. 2020 (arXiv:2002.04745).
    """

    config: TransformerConfig

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = unset_embedding(config.vocab, config.dim)
        self.encoder = nn.ModuleList(EncoderBlock(config) for _ in range(config.encoder_layers))
        self.encoder_norm = _last_norm(config)
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.layers))
        self.norm = _last_norm(config)
        self.head = Linear(config.dim, config.vocab, bias=False)
        if config.tied:
            self.tie()
        # Embeddings of length 1, so that scaled by sqrt(dim) they weigh as much as the sinusoids.
        initialise(self, layers=config.layers, std=config.dim**-0.5)

    def encode(
        self, tokens: Int[Tensor, "batch source"], valid: Bool[Tensor, "batch source"] | None = None
    ) -> Source:
        """See `Seq2Seq.encode`; positions count from each source's first valid token."""
        if valid is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
        else:
            positions = (valid.cumsum(1) - 1).clamp(min=0)
        x = self._embedded(tokens, positions)
        slot = Bidirectional(valid)
        for block in self.encoder:
            x = block(x, slot)
        return Source(self.encoder_norm(x), valid)

    def hidden(
        self,
        tokens: Int[Tensor, "batch seq"],
        source: Source,
        positions: Int[Tensor, "batch seq"] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """See `Seq2Seq.hidden`."""
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
        x = self._embedded(tokens, positions)
        slots = slots_for(source, len(self.blocks)) if cache is None else cache
        for block, slot in zip(self.blocks, slots, strict=True):
            x = block(x, source.states, slot)
        return self.norm(x)

    def _embedded(
        self, tokens: Int[Tensor, "batch seq"], positions: Int[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch seq dim"]:
        x = self.embedding(tokens) * math.sqrt(self.config.dim)
        return x + sinusoids(positions, self.config.dim).to(x.dtype)


def _attention(config: TransformerConfig) -> Attention:
    return Attention(
        config.dim,
        heads=config.heads,
        kv_heads=config.heads,
        head_dim=config.head_dim,
        qkv_bias=True,
        out_bias=True,
    )


def _last_norm(config: TransformerConfig) -> nn.Module:
    """Pre-norm blocks leave the stream unnormed; post-norm ones end with a norm of their own."""
    return nn.LayerNorm(config.dim, eps=config.norm_eps) if config.norm == "pre" else nn.Identity()
