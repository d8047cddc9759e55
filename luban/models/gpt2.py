"""GPT-2: LayerNorm before, learned positions, biases everywhere, tied head."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import torch
from annotated_types import Ge, Gt
from jaxtyping import Float, Int
from torch import Tensor, nn

from luban.errors import ModelError, PromptError
from luban.models.base import CausalLM, Shape, dtype_entry, from_entries, reject_unsupported
from luban.models.names import Fused, Names
from luban.nn.attention import Attention
from luban.nn.cache import Cache, LayerCache
from luban.nn.init import initialise, unset_embedding
from luban.nn.linear import Linear
from luban.nn.mlp import MLP

HF_ENTRIES = {
    "vocab_size": "vocab",
    "n_embd": "dim",
    "n_layer": "layers",
    "n_head": "heads",
    "n_inner": "hidden",
    "n_positions": "context",
    "layer_norm_epsilon": "norm_eps",
    "tie_word_embeddings": "tied",
    "bos_token_id": "bos_id",
    "eos_token_id": "eos_id",
    "pad_token_id": "pad_id",
}
SUPPORTED = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}
NAMES = Names(
    modules={
        "transformer.wte": "embedding",
        "transformer.wpe": "positions",
        "transformer.h.*.ln_1": "blocks.*.attention_norm",
        "transformer.h.*.attn.c_attn": Fused(
            ("blocks.*.attention.q", "blocks.*.attention.k", "blocks.*.attention.v")
        ),
        "transformer.h.*.attn.c_proj": Fused(("blocks.*.attention.o",)),
        "transformer.h.*.ln_2": "blocks.*.mlp_norm",
        "transformer.h.*.mlp.c_fc": Fused(("blocks.*.mlp.up",)),
        "transformer.h.*.mlp.c_proj": Fused(("blocks.*.mlp.down",)),
        "transformer.ln_f": "norm",
        "lm_head": "head",
    },
    prefix="transformer.",
    buffers=("attn.bias", "attn.masked_bias"),
)
TP_PLAN = {
    "embedding|head": "vocabulary",
    "blocks.*.attention.q|k|v": "column",
    "blocks.*.attention.o": "row",
    "blocks.*.mlp.up": "column",
    "blocks.*.mlp.down": "row",
}


@dataclass(frozen=True, kw_only=True)
class GPT2Config:
    """The numbers of one GPT-2."""

    model_type: Literal["gpt2"] = "gpt2"
    """Hugging Face's name of the family."""
    vocab: Annotated[int, Ge(1)]
    """Number of token ids."""
    dim: Annotated[int, Ge(1)]
    """Width of the residual stream."""
    layers: Annotated[int, Ge(1)]
    """Blocks."""
    heads: Annotated[int, Ge(1)]
    """Attention heads."""
    hidden: Annotated[int, Ge(0)] = 0
    """Width inside the MLP; 0 means 4 times `dim`."""
    context: Annotated[int, Ge(1)]
    """Number of learned positions: the longest sequence, in tokens."""
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
        object.__setattr__(self, "hidden", self.hidden or 4 * self.dim)

    @property
    def kv_heads(self) -> int:
        return self.heads

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Self:
        """Read an HF `config.json`; raises ModelError naming a missing or unsupported entry."""
        reject_unsupported(config, SUPPORTED)
        return from_entries(cls, config, HF_ENTRIES, dtype=dtype_entry(config))

    @classmethod
    def sized(cls, shape: Shape) -> Self:
        """A new model's config: heads of 64, an MLP 4 times as wide as the stream."""
        numbers: dict[str, Any] = dataclasses.asdict(shape)
        del numbers["kv_heads"]
        numbers["heads"] = shape.ungrouped_heads()
        return cls(**numbers)

    def to_hf(self) -> dict[str, Any]:
        """HF's `config.json`. Nothing is dropped out in training here, and it says so."""
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": self.model_type,
            **{entry: getattr(self, field) for entry, field in HF_ENTRIES.items()},
            "activation_function": "gelu_new",
            "attn_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
            "dtype": self.dtype,
            "torch_dtype": self.dtype,
        }


class Block(nn.Module):
    """Attention, then MLP, each on the normed stream and added to it."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.attention = Attention(
            config.dim,
            heads=config.heads,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            qkv_bias=True,
            out_bias=True,
        )
        self.mlp_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.mlp = MLP(config.dim, config.hidden)

    def forward(
        self, x: Float[Tensor, "batch seq dim"], slot: LayerCache | None = None
    ) -> Float[Tensor, "batch seq dim"]:
        x = x + self.attention(self.attention_norm(x), slot=slot)
        return x + self.mlp(self.mlp_norm(x))


class GPT2(CausalLM):
    """A GPT-2.

    Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3.
    """

    entrance = ("embedding", "positions")
    config: GPT2Config

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = unset_embedding(config.vocab, config.dim)
        self.positions = unset_embedding(config.context, config.dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.head = Linear(config.dim, config.vocab, bias=False)
        if config.tied:
            self.head.weight = self.embedding.weight
        initialise(self, layers=config.layers)

    def hidden(
        self,
        tokens: Int[Tensor, "batch seq"] | None,
        positions: Int[Tensor, "batch seq"] | None = None,
        cache: Cache | None = None,
        embeds: Float[Tensor, "batch seq dim"] | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """States after the last norm; see `CausalLM.hidden`. Raises PromptError past the last position."""
        x = self.embedding(tokens) if embeds is None else embeds
        if positions is None:
            self._reject_beyond(x.shape[1] - 1)
            positions = torch.arange(x.shape[1], device=x.device)[None]
        elif positions.is_cpu and not torch.compiler.is_compiling():
            # Elsewhere looking at the numbers would make the host wait; the lookup itself fails there.
            self._reject_beyond(int(positions.max()))
        return self.norm(self.run_blocks(x + self.positions(positions), cache))

    def _reject_beyond(self, position: int) -> None:
        if position >= self.config.context:
            raise PromptError(
                f"position {position} is beyond the {self.config.context} positions this model has learned",
                hint="a shorter text",
            )
