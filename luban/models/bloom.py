"""BLOOM: a GPT that is told no positions; each head instead sees far tokens less, at a slope of its own (ALiBi).

Nothing depends on a largest position, so a model trained on short rows reads longer ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Gt
from jaxtyping import Float, Int
from torch import Tensor, nn

from luban.errors import ModelError
from luban.models.base import CausalLM, Shape, dtype_entry, from_entries, reject_unsupported
from luban.models.names import Names
from luban.nn.cache import Bias, Cache, LayerCache, causal_attention
from luban.nn.init import initialise, unset_embedding
from luban.nn.linear import Linear
from luban.nn.mlp import MLP
from luban.nn.positions import alibi

HF_ENTRIES = {
    "vocab_size": "vocab",
    "n_embed": "dim",  # what early files call the next
    "hidden_size": "dim",
    "num_hidden_layers": "layers",
    "n_layer": "layers",
    "num_attention_heads": "heads",
    "n_head": "heads",
    "seq_length": "context",
    "layer_norm_epsilon": "norm_eps",
    "tie_word_embeddings": "tied",
    "bos_token_id": "bos_id",
    "eos_token_id": "eos_id",
    "pad_token_id": "pad_id",
}
SUPPORTED = {"apply_residual_connection_post_layernorm": (False,)}
NAMES = Names(
    modules={
        "transformer.word_embeddings": "embedding",
        "transformer.word_embeddings_layernorm": "embedding_norm",
        "transformer.h.*.input_layernorm": "blocks.*.attention_norm",
        "transformer.h.*.self_attention.query_key_value": "blocks.*.attention.qkv",
        "transformer.h.*.self_attention.dense": "blocks.*.attention.o",
        "transformer.h.*.post_attention_layernorm": "blocks.*.mlp_norm",
        "transformer.h.*.mlp.dense_h_to_4h": "blocks.*.mlp.up",
        "transformer.h.*.mlp.dense_4h_to_h": "blocks.*.mlp.down",
        "transformer.ln_f": "norm",
        "lm_head": "head",
    },
    prefix="transformer.",
    buffers=(),
)
TP_PLAN = {
    "embedding|head": "vocabulary",
    "blocks.*.attention.qkv": "column",
    "blocks.*.attention.o": "row",
    "blocks.*.bias": "heads",
    "blocks.*.mlp.up": "column",
    "blocks.*.mlp.down": "row",
}


@dataclass(frozen=True, kw_only=True)
class BloomConfig:
    """The numbers of one BLOOM."""

    model_type: Literal["bloom"] = "bloom"
    """Hugging Face's name of the family."""
    vocab: Annotated[int, Ge(1)]
    """Number of token ids."""
    dim: Annotated[int, Ge(1)]
    """Width of the residual stream."""
    layers: Annotated[int, Ge(1)]
    """Blocks."""
    heads: Annotated[int, Ge(1)]
    """Attention heads."""
    context: Annotated[int, Ge(1)] = 2048
    """Length of the rows it was trained on, in tokens; longer ones can be read."""
    norm_eps: Annotated[float, Gt(0)] = 1e-5
    """Added to the variance before its root is taken."""
    tied: bool = True
    """Share the embedding with the head."""
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

    @property
    def kv_heads(self) -> int:
        return self.heads

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def hidden(self) -> int:
        return 4 * self.dim

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Self:
        """Read an HF `config.json`; raises ModelError naming a missing or unsupported entry."""
        reject_unsupported(config, SUPPORTED)
        return from_entries(cls, config, HF_ENTRIES, dtype=dtype_entry(config))

    @classmethod
    def sized(cls, shape: Shape) -> Self:
        """A new model's config: heads of 64; the MLP is always 4 times as wide as the stream."""
        numbers: dict[str, Any] = dataclasses.asdict(shape)
        del numbers["kv_heads"]
        numbers["heads"] = shape.ungrouped_heads()
        if numbers.pop("hidden") not in (0, 4 * shape.dim):
            raise ModelError(f"hidden {shape.hidden}: a BLOOM of these numbers has {4 * shape.dim}")
        return cls(**numbers)

    def to_hf(self) -> dict[str, Any]:
        """HF's `config.json`. Nothing is dropped out in training here, and it says so."""
        synonyms = ("n_embed", "num_hidden_layers", "num_attention_heads")
        entries = {entry: field for entry, field in HF_ENTRIES.items() if entry not in synonyms}
        return {
            "architectures": ["BloomForCausalLM"],
            "model_type": self.model_type,
            **{entry: getattr(self, field) for entry, field in entries.items()},
            "attention_dropout": 0.0,
            "hidden_dropout": 0.0,
            "dtype": self.dtype,
            "torch_dtype": self.dtype,
        }


class InterleavedAttention(nn.Module):
    """Self-attention with q, k and v out of one product, head by head, as BLOOM's files hold them."""

    def __init__(self, dim: int, *, heads: int) -> None:
        super().__init__()
        self.head_dim = dim // heads
        self.qkv = Linear(dim, 3 * dim)
        self.o = Linear(dim, dim)

    def forward(
        self, x: Float[Tensor, "batch seq dim"], bias: Bias, slot: LayerCache | None = None
    ) -> Float[Tensor, "batch seq dim"]:
        """What each position gathers from the ones it may see, scores lowered by `bias`."""
        joined = self.qkv(x).unflatten(-1, (-1, 3, self.head_dim))  # [batch, seq, heads, 3, head_dim]
        q, k, v = joined.permute(3, 0, 2, 1, 4)
        gathered = causal_attention(q, k, v, bias) if slot is None else slot.attend(q, k, v, bias)
        return self.o(gathered.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention, then MLP, each on the normed stream and added to it."""

    def __init__(self, config: BloomConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.attention = InterleavedAttention(config.dim, heads=config.heads)
        self.mlp_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.mlp = MLP(config.dim, config.hidden)
        self.bias = alibi(config.heads)

    def forward(
        self, x: Float[Tensor, "batch seq dim"], slot: LayerCache | None = None
    ) -> Float[Tensor, "batch seq dim"]:
        x = x + self.attention(self.attention_norm(x), self.bias, slot)
        return x + self.mlp(self.mlp_norm(x))


class Bloom(CausalLM):
    """A BLOOM.

    Source: BigScience 2022 (arXiv:2211.05100); ALiBi: Press et al. 2022 (arXiv:2108.12409).
    """

    entrance = ("embedding", "embedding_norm")
    config: BloomConfig

    def __init__(self, config: BloomConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = unset_embedding(config.vocab, config.dim)
        self.embedding_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.head = Linear(config.dim, config.vocab, bias=False)
        if config.tied:
            self.tie()
        initialise(self, layers=config.layers)

    def hidden(
        self,
        tokens: Int[Tensor, "batch seq"] | None,
        positions: Int[Tensor, "batch seq"] | None = None,  # noqa: ARG002 - places in the cache tell distances
        cache: Cache | None = None,
        embeds: Float[Tensor, "batch seq dim"] | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """States after the last norm; see `CausalLM.hidden`. `positions` say nothing that the cache does not."""
        x = self.embedding(tokens) if embeds is None else embeds
        return self.norm(self.run_blocks(self.embedding_norm(x), cache))
