"""The LLaMA family: RMSNorm before, rotary positions, gated MLP, shared key heads.

Qwen2 (biases on q, k, v), Qwen3 (norms on q and k) and Mistral without a window are the same wiring and differ
by a flag: presets at the end of this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import torch
from annotated_types import Ge, Gt
from jaxtyping import Float, Int
from torch import Tensor, nn

from luban.errors import ModelError
from luban.models.base import CausalLM, dtype_entry, from_entries, reject_unsupported
from luban.models.names import Names
from luban.nn.attention import Attention
from luban.nn.cache import Cache, LayerCache
from luban.nn.init import initialise, unset_embedding
from luban.nn.linear import Linear
from luban.nn.mlp import GatedMLP
from luban.nn.norms import RMSNorm
from luban.nn.positions import RopeScaling, Rotary, Rotation

ModelType = Literal["llama", "qwen2", "qwen3", "mistral"]

HF_CLASSES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "mistral": "MistralForCausalLM",
}
HF_ENTRIES = {
    "vocab_size": "vocab",
    "hidden_size": "dim",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "head_dim": "head_dim",
    "intermediate_size": "hidden",
    "max_position_embeddings": "context",
    "rms_norm_eps": "norm_eps",
    "tie_word_embeddings": "tied",
    "bos_token_id": "bos_id",
    "eos_token_id": "eos_id",
    "pad_token_id": "pad_id",
}
ROPE_ENTRIES = {
    "factor": "factor",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "original_max_position_embeddings": "original_context",
}
ROPE_KINDS = {"linear": ("factor",), "llama3": tuple(ROPE_ENTRIES)}
SUPPORTED = {
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "partial_rotary_factor": (1.0,),
}
NAMES = Names(
    modules={
        "model.embed_tokens": "embedding",
        "model.layers.*.input_layernorm": "blocks.*.attention_norm",
        "model.layers.*.self_attn.q_proj": "blocks.*.attention.q",
        "model.layers.*.self_attn.k_proj": "blocks.*.attention.k",
        "model.layers.*.self_attn.v_proj": "blocks.*.attention.v",
        "model.layers.*.self_attn.o_proj": "blocks.*.attention.o",
        "model.layers.*.self_attn.q_norm": "blocks.*.attention.q_norm",
        "model.layers.*.self_attn.k_norm": "blocks.*.attention.k_norm",
        "model.layers.*.post_attention_layernorm": "blocks.*.mlp_norm",
        "model.layers.*.mlp.gate_proj": "blocks.*.mlp.gate",
        "model.layers.*.mlp.up_proj": "blocks.*.mlp.up",
        "model.layers.*.mlp.down_proj": "blocks.*.mlp.down",
        "model.norm": "norm",
        "lm_head": "head",
    },
    prefix="model.",
    buffers=("rotary_emb.inv_freq",),
)


@dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """The numbers of one model of the family."""

    model_type: ModelType = "llama"
    """Hugging Face's name of the member."""
    vocab: Annotated[int, Ge(1)]
    """Number of token ids."""
    dim: Annotated[int, Ge(1)]
    """Width of the residual stream."""
    layers: Annotated[int, Ge(1)]
    """Blocks."""
    heads: Annotated[int, Ge(1)]
    """Query heads."""
    kv_heads: Annotated[int, Ge(0)] = 0
    """Key and value heads, each shared by heads/kv_heads query heads; 0 means as many as `heads`."""
    head_dim: Annotated[int, Ge(0)] = 0
    """Width of one head; 0 means dim/heads."""
    hidden: Annotated[int, Ge(1)]
    """Width inside the MLP."""
    context: Annotated[int, Ge(1)]
    """Longest sequence the model is meant for, in tokens."""
    rope_theta: Annotated[float, Gt(0)] = 10000.0
    """Base of the rotation speeds."""
    rope_scaling: RopeScaling | None = None
    """How the speeds are slowed for a long context; none keeps them."""
    norm_eps: Annotated[float, Gt(0)] = 1e-6
    """Added to the mean square before its root is taken."""
    tied: bool = False
    """Share the embedding with the head."""
    qkv_bias: bool = False
    """Biases on the q, k and v projections (Qwen2)."""
    qk_norm: bool = False
    """RMSNorm on each head's queries and keys (Qwen3)."""
    bos_id: int | None = None
    """Id that begins a text."""
    eos_id: int | tuple[int, ...] | None = None
    """Id, or ids, that end an answer."""
    pad_id: int | None = None
    """Id that fills up shorter rows."""
    dtype: str = "float32"
    """Type of the weights: float32, bfloat16, float16."""

    def __post_init__(self) -> None:
        if not self.head_dim and self.dim % self.heads:
            raise ModelError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        object.__setattr__(self, "kv_heads", self.kv_heads or self.heads)
        object.__setattr__(self, "head_dim", self.head_dim or self.dim // self.heads)
        if self.heads % self.kv_heads:
            raise ModelError(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")
        if self.head_dim % 2:
            raise ModelError(f"head_dim {self.head_dim} is odd; rotary positions turn pairs")
        for flag, owner in (("qkv_bias", "qwen2"), ("qk_norm", "qwen3")):
            if getattr(self, flag) != (self.model_type == owner):
                raise ModelError(
                    f"{flag} is {getattr(self, flag)} for {self.model_type}; only {owner} has it"
                )

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Self:
        """Read an HF `config.json`; raises ModelError naming a missing or unsupported entry."""
        reject_unsupported(config, SUPPORTED)
        _reject_window(config)
        model_type = config.get("model_type", "llama")
        theta, scaling = _read_rope(config)
        return from_entries(
            cls,
            config,
            HF_ENTRIES,
            model_type=model_type,
            rope_theta=theta,
            rope_scaling=scaling,
            qkv_bias=model_type == "qwen2",
            qk_norm=model_type == "qwen3",
            dtype=dtype_entry(config),
        )

    def to_hf(self) -> dict[str, Any]:
        """HF's `config.json`, in the entries of transformers 4 and of 5."""
        rope: dict[str, Any] = {"rope_type": "default"}
        if self.rope_scaling is not None:
            kept = ROPE_KINDS[self.rope_scaling.kind]
            numbers = {entry: getattr(self.rope_scaling, ROPE_ENTRIES[entry]) for entry in kept}
            rope = {"rope_type": self.rope_scaling.kind, **numbers}
        windowless = {} if self.model_type == "llama" else {"sliding_window": None}
        return {
            "architectures": [HF_CLASSES[self.model_type]],
            "model_type": self.model_type,
            **{entry: getattr(self, field) for entry, field in HF_ENTRIES.items()},
            "hidden_act": "silu",
            "rope_theta": self.rope_theta,
            "rope_scaling": None if self.rope_scaling is None else rope,
            "rope_parameters": {**rope, "rope_theta": self.rope_theta},
            **windowless,
            "attention_bias": False,
            "dtype": self.dtype,
            "torch_dtype": self.dtype,
        }


class Block(nn.Module):
    """Attention, then MLP, each on the normed stream and added to it."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.attention = Attention(
            config.dim,
            heads=config.heads,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            qkv_bias=config.qkv_bias,
            qk_norm_eps=config.norm_eps if config.qk_norm else None,
        )
        self.mlp_norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.mlp = GatedMLP(config.dim, config.hidden)

    def forward(
        self, x: Float[Tensor, "batch seq dim"], rotation: Rotation, slot: LayerCache | None = None
    ) -> Float[Tensor, "batch seq dim"]:
        x = x + self.attention(self.attention_norm(x), rotation, slot)
        return x + self.mlp(self.mlp_norm(x))


class Llama(CausalLM):
    """A decoder of the LLaMA family.

    Source: Touvron et al. 2023 (arXiv:2302.13971); Qwen2 arXiv:2407.10671; Qwen3 arXiv:2505.09388.
    """

    config: LlamaConfig

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.rotary = Rotary(config.head_dim, theta=config.rope_theta, scaling=config.rope_scaling)
        self.embedding = unset_embedding(config.vocab, config.dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.dim, eps=config.norm_eps)
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
        """States after the last norm; see `CausalLM.hidden`."""
        x = self.embedding(tokens) if embeds is None else embeds
        if positions is None:
            positions = torch.arange(x.shape[1], device=x.device)[None]
        return self.norm(self.run_blocks(x, cache, self.rotary(positions, x.dtype)))


def qwen2(**numbers: Any) -> LlamaConfig:
    """A Qwen2 of these numbers."""
    return LlamaConfig(model_type="qwen2", qkv_bias=True, **numbers)


def qwen3(**numbers: Any) -> LlamaConfig:
    """A Qwen3 of these numbers."""
    return LlamaConfig(model_type="qwen3", qk_norm=True, **numbers)


def _read_rope(config: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """Base and scaling of the rotation, from `rope_parameters` or the older `rope_theta`, `rope_scaling`."""
    entries: Mapping[str, Any] = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = float(entries.get("rope_theta") or config.get("rope_theta") or 10000.0)
    kind = entries.get("rope_type") or entries.get("type") or "default"
    if any(isinstance(entry, Mapping) for entry in entries.values()):
        raise ModelError("rotary positions that differ by layer are not supported", where="config.json")
    reject_unsupported(entries, {"partial_rotary_factor": (1.0,)})
    if kind == "default":
        return theta, None
    if kind not in ROPE_KINDS:
        known = ", ".join(["default", *ROPE_KINDS])
        raise ModelError(f"unknown rope_type '{kind}'; choose from: {known}", where="config.json")
    missing = [entry for entry in ROPE_KINDS[kind] if entries.get(entry) is None]
    if missing:
        raise ModelError(f"rope_type '{kind}' needs '{missing[0]}'", where="config.json")
    return theta, RopeScaling(
        kind=kind, **{ROPE_ENTRIES[entry]: entries[entry] for entry in ROPE_KINDS[kind]}
    )


def _reject_window(config: Mapping[str, Any]) -> None:
    """Raise ModelError where attention is limited to a window smaller than the context."""
    window, context = config.get("sliding_window"), config.get("max_position_embeddings") or 0
    if config.get("model_type") == "mistral":
        window = config.get("sliding_window", 4096)  # transformers' default; null means none
        active = True
    else:
        active = bool(config.get("use_sliding_window")) or "sliding_attention" in (
            config.get("layer_types") or ()
        )
    if active and window is not None and window < context:
        raise ModelError(
            f"sliding_window {window} is smaller than the context {context}; windows are not supported yet",
            where="config.json",
            hint=f'"sliding_window": null with "max_position_embeddings": {window}, for texts up to that length',
        )
