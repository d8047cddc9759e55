"""T5: every task as text to text; where a token stands is told by a bias on the scores, shared by all blocks.

Norms without means before each part, no biases in products, and scores that are not scaled: the weights start small
instead. Version 1.0 has a ReLU MLP and ties a scaled head to the embedding, version 1.1 a gated MLP and a head of
its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from luban.errors import ModelError
from luban.models.base import Shape, dtype_entry, from_entries
from luban.models.seq2seq import Seq2Seq, Source, check_start, slots_for, start_token
from luban.models.t5_files import HF_ENTRIES, refuse_other_models
from luban.nn.attention import Attention, CrossAttention
from luban.nn.cache import Bias, Bidirectional, Cache, DecoderSlot, LayerCache, LookedUp
from luban.nn.init import unset_embedding
from luban.nn.linear import Linear
from luban.nn.norms import RMSNorm

MLPKind = Literal["relu", "gated-gelu"]
TP_PLAN = {
    "embedding|head": "vocabulary",
    "distances.table": "heads",
    "encoder.distances.table": "heads",
    "encoder.blocks.*.attention.q|k|v": "column",
    "encoder.blocks.*.attention.o": "row",
    "encoder.blocks.*.mlp.wide|gate|up": "column",
    "encoder.blocks.*.mlp.down": "row",
    "blocks.*.attention|cross.q|k|v": "column",
    "blocks.*.attention|cross.o": "row",
    "blocks.*.mlp.wide|gate|up": "column",
    "blocks.*.mlp.down": "row",
}


@dataclass(frozen=True, kw_only=True)
class T5Config:
    """The numbers of one T5."""

    model_type: Literal["t5"] = "t5"
    """Hugging Face's name of the family."""
    vocab: Annotated[int, Ge(1)]
    """Number of token ids, shared by both sides; published models have more than their tokenizer."""
    dim: Annotated[int, Ge(1)]
    """Width of the residual stream."""
    layers: Annotated[int, Ge(0)] = 0
    """Blocks of the decoder; 0 means as many as the encoder has."""
    encoder_layers: Annotated[int, Ge(0)] = 0
    """Blocks of the encoder; 0 means as many as the decoder has."""
    heads: Annotated[int, Ge(1)]
    """Attention heads."""
    head_dim: Annotated[int, Ge(1)]
    """Width of one head; all together need not be as wide as the stream."""
    hidden: Annotated[int, Ge(1)]
    """Width inside the MLP."""
    mlp: MLPKind = "relu"
    """`relu` (version 1.0), or `gated-gelu` (1.1)."""
    buckets: Annotated[int, Ge(4)] = 32
    """Classes of distance, each with a bias for every head."""
    max_distance: Annotated[int, Ge(1)] = 128
    """From here on all distances are one class."""
    norm_eps: Annotated[float, Gt(0)] = 1e-6
    """Added to the mean square before its root is taken."""
    context: Annotated[int, Ge(1)] = 512
    """Longest source and longest answer the model is meant for, in tokens; there is no limit to what it can read."""
    tied: bool = True
    """Share the embedding with the head."""
    scaled: bool | None = None
    """Divide states by `sqrt(dim)` before the head; None means where it is tied."""
    decoder_start_id: Annotated[int, Ge(0)]
    """The token every answer begins with; it is not part of the answer."""
    bos_id: int | None = None
    """Id that begins a text; published models have none."""
    eos_id: int | tuple[int, ...] | None = None
    """Id, or ids, that end an answer."""
    pad_id: int | None = None
    """Id that fills up shorter rows."""
    dtype: str = "float32"
    """Type of the weights: float32, bfloat16, float16."""

    def __post_init__(self) -> None:
        if not (self.layers or self.encoder_layers):
            raise ModelError("neither layers nor encoder_layers is given")
        object.__setattr__(self, "layers", self.layers or self.encoder_layers)
        object.__setattr__(self, "encoder_layers", self.encoder_layers or self.layers)
        object.__setattr__(self, "scaled", self.tied if self.scaled is None else self.scaled)
        if self.buckets % 4:
            raise ModelError(f"buckets {self.buckets} is not a multiple of 4: near and far, before and after")
        if self.max_distance <= self.buckets // 2:
            raise ModelError(
                f"max_distance {self.max_distance} is within the {self.buckets // 2} distances of their own"
            )
        check_start(self.decoder_start_id, self.vocab)

    @property
    def kv_heads(self) -> int:
        return self.heads

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Self:
        """Read an HF `config.json`; raises ModelError naming a missing or unsupported entry.

        Answers begin with the padding token where the config does not say (transformers' models are made so).
        """
        refuse_other_models(config)
        begins = {"decoder_start_token_id": config.get("pad_token_id")}
        return from_entries(cls, begins | dict(config), HF_ENTRIES, dtype=dtype_entry(config))

    @classmethod
    def sized(cls, shape: Shape) -> Self:
        """A new model's config, as version 1.1: heads of 64, a gated MLP of 8/3 of `dim` rounded up to 32."""
        heads = shape.ungrouped_heads()
        return cls(
            vocab=shape.vocab,
            dim=shape.dim,
            layers=shape.layers,
            heads=heads,
            head_dim=max(1, shape.dim // heads),
            hidden=shape.hidden or -(-shape.dim * 8 // 3 // 32) * 32,
            mlp="gated-gelu",
            context=shape.context,
            tied=shape.tied,
            decoder_start_id=start_token(shape) if shape.pad_id is None else shape.pad_id,
            bos_id=shape.bos_id,
            eos_id=shape.eos_id,
            pad_id=shape.pad_id,
        )

    def to_hf(self) -> dict[str, Any]:
        """HF's `config.json`. Nothing is dropped out in training here, and it says so."""
        return {
            "architectures": ["T5ForConditionalGeneration"],
            "model_type": self.model_type,
            **{entry: getattr(self, field) for entry, field in HF_ENTRIES.items()},
            "is_encoder_decoder": True,
            "dropout_rate": 0.0,
            "dtype": self.dtype,
            "torch_dtype": self.dtype,
        }


def bucket_of(
    distances: Int[Tensor, "*shape"], *, buckets: int, max_distance: int, causal: bool
) -> Int[Tensor, "*shape"]:
    """The class of each distance (positive: the key lies behind its query).

    Half of the classes are single distances from 0 on, the others ranges that widen by one factor up to
    `max_distance`. Where keys ahead are seen too, they have the upper half of all classes.

    Source: Raffel et al. 2020, section 2.1 (arXiv:1910.10683); the formula is mesh_tensorflow's.
    """
    if causal:
        first, far = 0, distances.clamp(min=0)
    else:
        buckets //= 2
        first, far = (distances < 0) * buckets, distances.abs()
    single = buckets // 2
    growth = torch.log(far.clamp(min=1).float() / single) / math.log(max_distance / single)
    ranges = single + (growth * (buckets - single)).long()
    return first + torch.where(far < single, far, ranges.clamp(max=buckets - 1))


class Distances(nn.Module):
    """What each head adds to a score, by the class of the distance: a `Bias` for the slots."""

    def __init__(self, config: T5Config, *, causal: bool) -> None:
        super().__init__()
        self.table = unset_embedding(config.buckets, config.heads)
        self.max_distance, self.causal = config.max_distance, causal

    def forward(self, distances: Int[Tensor, "new end"]) -> Float[Tensor, "heads new end"]:
        buckets = self.table.num_embeddings
        classes = bucket_of(distances, buckets=buckets, max_distance=self.max_distance, causal=self.causal)
        return self.table(classes).permute(2, 0, 1)

    def for_one_pass(self) -> Bias:
        """The same, looked up once."""
        return LookedUp(self)


class Query(Linear):
    """Queries, larger by what attention divides scores by: T5 leaves scores as they are."""

    def __init__(self, config: T5Config) -> None:
        super().__init__(config.dim, config.heads * config.head_dim, bias=False)
        self.scale = math.sqrt(config.head_dim)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Linear's name for it
        return super().forward(input) * self.scale


class UnscaledAttention(Attention):
    """Self-attention with T5's queries."""

    def __init__(self, config: T5Config) -> None:
        super().__init__(config.dim, heads=config.heads, kv_heads=config.heads, head_dim=config.head_dim)
        self.q = Query(config)

    def join(self) -> None:
        """Nothing: one product for q, k and v would leave the queries as they are."""


class UnscaledCrossAttention(CrossAttention):
    """Attention to the encoder's output with T5's queries."""

    def __init__(self, config: T5Config) -> None:
        super().__init__(config.dim, heads=config.heads, head_dim=config.head_dim, bias=False)
        self.q = Query(config)


class FeedForward(nn.Module):
    """`down(relu(wide(x)))`, without biases."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.wide = Linear(dim, hidden, bias=False)
        self.down = Linear(hidden, dim, bias=False)

    def forward(self, x: Float[Tensor, "batch seq dim"]) -> Float[Tensor, "batch seq dim"]:
        return self.down(F.relu(self.wide(x)))


class GatedFeedForward(nn.Module):
    """`down(gelu(gate(x)) * up(x))`, without biases.

    Source: Shazeer 2020, eq. 6, GEGLU (arXiv:2002.05202), with the tanh form of GELU.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate = Linear(dim, hidden, bias=False)
        self.up = Linear(dim, hidden, bias=False)
        self.down = Linear(hidden, dim, bias=False)

    def forward(self, x: Float[Tensor, "batch seq dim"]) -> Float[Tensor, "batch seq dim"]:
        return self.down(F.gelu(self.gate(x), approximate="tanh") * self.up(x))


MLPS: Mapping[MLPKind, Callable[[int, int], nn.Module]] = {
    "relu": FeedForward,
    "gated-gelu": GatedFeedForward,
}


class EncoderBlock(nn.Module):
    """Attention, then MLP, each on the normed stream and added to it."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.attention = UnscaledAttention(config)
        self.mlp_norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.mlp = MLPS[config.mlp](config.dim, config.hidden)

    def forward(
        self, x: Float[Tensor, "batch seq dim"], slot: LayerCache, bias: Bias
    ) -> Float[Tensor, "batch seq dim"]:
        x = x + self.attention(self.attention_norm(x), slot=slot, bias=bias)
        return x + self.mlp(self.mlp_norm(x))


class DecoderBlock(EncoderBlock):
    """An encoder's block that looks at the source between its attention and its MLP."""

    def __init__(self, config: T5Config) -> None:
        super().__init__(config)
        self.cross_norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.cross = UnscaledCrossAttention(config)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] - a decoder's block also takes the source
        self, x: Tensor, source: Float[Tensor, "batch source dim"], slot: DecoderSlot, bias: Bias
    ) -> Float[Tensor, "batch seq dim"]:
        x = x + self.attention(self.attention_norm(x), slot=slot.own, bias=bias)
        x = x + self.cross(self.cross_norm(x), source, slot.source)
        return x + self.mlp(self.mlp_norm(x))


class Encoder(nn.Module):
    """Embeddings in, states out, each having seen all others."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.distances = Distances(config, causal=False)
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.encoder_layers))
        self.norm = RMSNorm(config.dim, eps=config.norm_eps)

    def forward(
        self, x: Float[Tensor, "batch source dim"], valid: Bool[Tensor, "batch source"] | None
    ) -> Float[Tensor, "batch source dim"]:
        slot, bias = Bidirectional(valid), self.distances.for_one_pass()
        for block in self.blocks:
            x = block(x, slot, bias)
        return self.norm(x)


class T5(Seq2Seq):
    """A T5.

    Source: Raffel et al. 2020 (arXiv:1910.10683), section 2.1; version 1.1: its authors' release notes.
    """

    config: T5Config

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = unset_embedding(config.vocab, config.dim)
        self.encoder = Encoder(config)
        self.distances = Distances(config, causal=True)
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.head = Linear(config.dim, config.vocab, bias=False)
        if config.tied:
            self.tie()
        if not self.embedding.weight.is_meta:
            self._initialise()

    def encode(
        self, tokens: Int[Tensor, "batch source"], valid: Bool[Tensor, "batch source"] | None = None
    ) -> Source:
        """See `Seq2Seq.encode`."""
        return Source(self.encoder(self.embedding(tokens), valid), valid)

    def hidden(
        self,
        tokens: Int[Tensor, "batch seq"],
        source: Source,
        positions: Int[Tensor, "batch seq"] | None = None,  # noqa: ARG002 - only distances are known here
        cache: Cache | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """See `Seq2Seq.hidden`; `positions` tell nothing that the slots do not."""
        x, bias = self.embedding(tokens), self.distances.for_one_pass()
        slots = slots_for(source, len(self.blocks)) if cache is None else cache
        for block, slot in zip(self.blocks, slots, strict=True):
            x = block(x, source.states, slot, bias)
        return self.norm(x)

    def before_head(self, states: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
        """See `Seq2Seq.before_head`."""
        return states * self.config.dim**-0.5 if self.config.scaled else states

    def _initialise(self) -> None:
        """Draw weights so that what goes in with variance 1 comes out with it, scores included.

        Source: mesh_tensorflow's initialisers, as the paper's models were made.
        """
        for name, module in self.named_modules():
            if not isinstance(module, nn.Linear | nn.Embedding):
                continue
            variance = 1.0 / module.weight.shape[-1]
            if name == "embedding" or (name == "head" and self.config.tied):
                variance = 1.0
            elif name.endswith("distances.table"):
                variance = 1.0 / self.config.dim
            elif isinstance(module, Query):
                variance /= self.config.head_dim
            nn.init.normal_(module.weight, std=math.sqrt(variance))
