"""The LLaMA family: RMSNorm before, rotary positions, gated MLP, shared key heads.

Its members are one wiring and differ by little: Qwen2 has biases on q, k and v, Qwen3 norms on q and k, Mistral
sees a window of the text only, Mixtral and Qwen3-MoE have experts in the MLP's place. `presets.py` has the sizes
that were published.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import torch
from annotated_types import Ge, Gt
from jaxtyping import Float, Int
from torch import Tensor, nn

from luban.errors import ModelError
from luban.models.base import CausalLM, Shape, dense_slot, dtype_entry, from_entries, reject_unsupported
from luban.models.llama_files import (
    MEMBERS,
    SUPPORTED,
    Member,
    entries_of,
    read_rope,
    read_windows,
    write_rope,
    write_windows,
)
from luban.nn.attention import Attention
from luban.nn.cache import Cache, Isolated, LayerCache, Windowed
from luban.nn.init import initialise, unset_embedding
from luban.nn.linear import Linear
from luban.nn.mlp import GatedMLP
from luban.nn.moe import MoE
from luban.nn.norms import RMSNorm
from luban.nn.positions import Rotary, Rotation
from luban.nn.rope_scaling import RopeScaling

ModelType = Literal["llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe"]


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
    window: Annotated[int, Ge(0)] = 0
    """How many places a token sees, its own among them; 0 means all before it."""
    full_layers: tuple[int, ...] = ()
    """Layers, by number, that see everything despite `window` (Qwen2, Qwen3)."""
    experts: Annotated[int, Ge(0)] = 0
    """MLPs to choose from in each block; 0 means one MLP and no choice."""
    experts_per_token: Annotated[int, Ge(0)] = 0
    """How many of the experts each token goes to."""
    experts_normalised: bool = True
    """Let the chosen experts' weights sum to 1."""
    balance: Annotated[float, Ge(0)] = 0.001
    """Weight of the loss that keeps experts evenly used, in training."""
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
        self._check_windows()
        self._check_experts()
        scaling = self.rope_scaling
        if scaling is not None and scaling.kind == "dynamic" and scaling.longest != self.context:
            told = f"dynamic rope_scaling of {scaling.original_context} tokens by {scaling.factor:g} makes"
            raise ModelError(
                f"{told} {scaling.longest}, the context is {self.context}; files say no third number"
            )

    def _check_windows(self) -> None:
        allowed = self.member.windows
        if self.window and allowed == "none":
            raise ModelError(f"window {self.window} for {self.model_type}, which sees the whole text")
        if self.full_layers and not (self.window and allowed == "by layer"):
            raise ModelError(f"full_layers {self.full_layers} for {self.model_type} of window {self.window}")
        beyond = [layer for layer in self.full_layers if not 0 <= layer < self.layers]
        if beyond:
            raise ModelError(f"full_layers has {beyond[0]}; the layers are 0 to {self.layers - 1}")

    def _check_experts(self) -> None:
        if bool(self.experts) != self.member.experts:
            having = ", ".join(name for name, member in MEMBERS.items() if member.experts)
            raise ModelError(f"experts is {self.experts} for {self.model_type}; those with experts: {having}")
        if not min(1, self.experts) <= self.experts_per_token <= self.experts:
            raise ModelError(f"experts_per_token is {self.experts_per_token} of {self.experts} experts")
        if self.model_type == "mixtral" and not self.experts_normalised:
            raise ModelError("experts_normalised is False for mixtral, whose weights always sum to 1")

    @property
    def member(self) -> Member:
        """What the family's member is, apart from numbers."""
        return MEMBERS[self.model_type]

    def window_of(self, layer: int) -> int:
        """How many places the tokens of `layer` see; 0 means all."""
        return 0 if layer in self.full_layers else self.window

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Self:
        """Read an HF `config.json`; raises ModelError naming a missing or unsupported entry."""
        model_type = config.get("model_type", "llama")
        member = MEMBERS[model_type]
        reject_unsupported(config, SUPPORTED)
        more = {**read_rope(config), **read_windows(config, model_type), "dtype": dtype_entry(config)}
        if member.experts:
            more["experts_normalised"] = model_type == "mixtral" or bool(config.get("norm_topk_prob"))
        return from_entries(cls, config, entries_of(member), model_type=model_type, **more)

    @classmethod
    def sized(cls, shape: Shape) -> Self:
        """A new model's config: heads of 64, an MLP of 8/3 of `dim` rounded up to 32.

        With experts: 8 of them, half as wide, two for each token, which then costs what one whole MLP would.
        """
        numbers: dict[str, Any] = dataclasses.asdict(shape)
        numbers |= {"heads": shape.query_heads, "kv_heads": shape.kv_heads or shape.query_heads}
        member = MEMBERS[shape.model_type]
        width = shape.dim * 4 // 3 if member.experts else shape.dim * 8 // 3
        numbers |= {"hidden": shape.hidden or -(-width // 32) * 32}
        if member.experts:
            numbers |= {"experts": 8, "experts_per_token": 2}
        return cls(**numbers)

    def to_hf(self) -> dict[str, Any]:
        """HF's `config.json`, in the entries of transformers 4 and of 5."""
        experts = {"norm_topk_prob": self.experts_normalised} if self.model_type == "qwen3_moe" else {}
        return {
            "architectures": [self.member.hf_class],
            "model_type": self.model_type,
            **{entry: getattr(self, field) for entry, field in entries_of(self.member).items()},
            "hidden_act": "silu",
            **write_rope(self),  # with dynamic scaling also another window than `context`
            **write_windows(self),
            **experts,
            "attention_bias": False,
            "dtype": self.dtype,
            "torch_dtype": self.dtype,
        }


TP_PLAN = {
    "embedding|head": "vocabulary",
    "blocks.*.attention.q|k|v": "column",
    "blocks.*.attention.o": "row",
    "blocks.*.mlp.gate|up": "column",
    "blocks.*.mlp.down": "row",
}
QK_NORM_PLAN = {"blocks.*.attention.q_norm|k_norm": "heads"}
MOE_PLAN = {
    **{pattern: cut for pattern, cut in TP_PLAN.items() if ".mlp." not in pattern},
    "blocks.*.mlp.experts.*.gate|up": "column",
    "blocks.*.mlp.experts.*.down": "row",
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
            qkv_bias=config.member.qkv_bias,
            qk_norm_eps=config.norm_eps if config.member.qk_norm else None,
        )
        self.mlp_norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.mlp = _mlp(config)

    def forward(
        self, x: Float[Tensor, "batch seq dim"], rotation: Rotation, slot: LayerCache | None = None
    ) -> Float[Tensor, "batch seq dim"]:
        x = x + self.attention(self.attention_norm(x), rotation, slot)
        return x + self.mlp(self.mlp_norm(x))


def _mlp(config: LlamaConfig) -> nn.Module:
    if not config.experts:
        return GatedMLP(config.dim, config.hidden)
    return MoE(
        config.dim,
        config.hidden,
        experts=config.experts,
        chosen=config.experts_per_token,
        normalised=config.experts_normalised,
    )


class Llama(CausalLM):
    """A decoder of the LLaMA family.

    Source: Touvron et al. 2023 (arXiv:2302.13971); Mistral arXiv:2310.06825; Mixtral arXiv:2401.04088;
    Qwen2 arXiv:2407.10671; Qwen3 arXiv:2505.09388.
    """

    entrance = ("embedding",)
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
            self.tie()
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
        if cache is None and self.config.window:
            cache = [Windowed(window) if window else None for window in self._windows()]
        return self.norm(self.run_blocks(x, cache, self.rotary(positions, x.dtype)))

    def make_cache(self, *, batch: int, capacity: int, valid: Tensor | None = None) -> Cache:
        """See `CausalLM.make_cache`."""
        return [
            dense_slot(self, batch=batch, capacity=capacity, valid=valid, window=window)
            for window in self._windows()
        ]

    def isolate(self, documents: Int[Tensor, "batch seq"]) -> Cache:
        """See `CausalLM.isolate`."""
        slots = {window: Isolated(documents, window) for window in set(self._windows())}
        return [slots[window] for window in self._windows()]

    def _windows(self) -> list[int]:
        return [self.config.window_of(layer) for layer in range(self.config.layers)]
