"""The LLaMA family's files as Hugging Face lays them out: entries of config.json and names of weights, both ways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge

from luban.errors import ModelError
from luban.models.base import from_entries, reject_unsupported
from luban.models.names import Names
from luban.nn.rope_scaling import RopeScaling

if TYPE_CHECKING:
    from luban.models.llama import LlamaConfig


@dataclass(frozen=True, kw_only=True)
class Member:
    """What tells one `model_type` of the family from the others."""

    hf_class: str
    windows: Literal["none", "all", "by layer"] = "none"
    """Which layers may see only a window of the text."""
    qkv_bias: bool = False
    qk_norm: bool = False
    experts: bool = False
    theta: float = 10000.0
    """transformers' base of the rotation speeds where config.json has none."""
    hidden_entry: str = "intermediate_size"
    """HF's entry for the width inside the MLP, or inside each expert."""


MEMBERS = {
    "llama": Member(hf_class="LlamaForCausalLM"),
    "mistral": Member(hf_class="MistralForCausalLM", windows="all"),
    "mixtral": Member(hf_class="MixtralForCausalLM", windows="all", experts=True, theta=1e6),
    "qwen2": Member(hf_class="Qwen2ForCausalLM", windows="by layer", qkv_bias=True),
    "qwen3": Member(hf_class="Qwen3ForCausalLM", windows="by layer", qk_norm=True),
    "qwen3_moe": Member(
        hf_class="Qwen3MoeForCausalLM",
        windows="all",
        qk_norm=True,
        experts=True,
        hidden_entry="moe_intermediate_size",
    ),
}

ENTRIES = {
    "vocab_size": "vocab",
    "hidden_size": "dim",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "head_dim": "head_dim",
    "max_position_embeddings": "context",
    "rms_norm_eps": "norm_eps",
    "tie_word_embeddings": "tied",
    "bos_token_id": "bos_id",
    "eos_token_id": "eos_id",
    "pad_token_id": "pad_id",
}
EXPERT_ENTRIES = {
    "num_experts": "experts",
    "num_local_experts": "experts",
    "num_experts_per_tok": "experts_per_token",
    "router_aux_loss_coef": "balance",
}
KINDS = ("full_attention", "sliding_attention")
"""HF's names of a layer without a window, and of one with it."""
WINDOW_ENTRIES = {
    "num_hidden_layers": "layers",
    "sliding_window": "window",
    "use_sliding_window": "switched_on",
    "max_window_layers": "first",
    "layer_types": "kinds",
}
ORIGINAL = "original_max_position_embeddings"
ROPE_ENTRIES = {
    "factor": "factor",
    ORIGINAL: "original_context",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "attention_factor": "attention_factor",
}
ROPE_KINDS = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", ORIGINAL, "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor", ORIGINAL, "beta_fast", "beta_slow", "attention_factor"),
}
ROPE_REQUIRED = {"factor", "low_freq_factor", "high_freq_factor"}
SUPPORTED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "partial_rotary_factor": (1.0,),
    "decoder_sparse_step": (1,),
    "mlp_only_layers": ([],),
    "router_jitter_noise": (0.0,),
}

_BODY = {
    "model.embed_tokens": "embedding",
    "model.layers.*.input_layernorm": "blocks.*.attention_norm",
    "model.layers.*.self_attn.q_proj": "blocks.*.attention.q",
    "model.layers.*.self_attn.k_proj": "blocks.*.attention.k",
    "model.layers.*.self_attn.v_proj": "blocks.*.attention.v",
    "model.layers.*.self_attn.o_proj": "blocks.*.attention.o",
    "model.layers.*.self_attn.q_norm": "blocks.*.attention.q_norm",
    "model.layers.*.self_attn.k_norm": "blocks.*.attention.k_norm",
    "model.layers.*.post_attention_layernorm": "blocks.*.mlp_norm",
    "model.norm": "norm",
    "lm_head": "head",
}
NAMES = Names(
    modules={
        **_BODY,
        "model.layers.*.mlp.gate_proj": "blocks.*.mlp.gate",
        "model.layers.*.mlp.up_proj": "blocks.*.mlp.up",
        "model.layers.*.mlp.down_proj": "blocks.*.mlp.down",
        "model.layers.*.mlp.gate": "blocks.*.mlp.router",
        "model.layers.*.mlp.experts.*.gate_proj": "blocks.*.mlp.experts.*.gate",
        "model.layers.*.mlp.experts.*.up_proj": "blocks.*.mlp.experts.*.up",
        "model.layers.*.mlp.experts.*.down_proj": "blocks.*.mlp.experts.*.down",
    },
    prefix="model.",
    buffers=("rotary_emb.inv_freq",),
)
MIXTRAL_NAMES = Names(
    modules={
        **_BODY,
        "model.layers.*.block_sparse_moe.gate": "blocks.*.mlp.router",
        "model.layers.*.block_sparse_moe.experts.*.w1": "blocks.*.mlp.experts.*.gate",
        "model.layers.*.block_sparse_moe.experts.*.w3": "blocks.*.mlp.experts.*.up",
        "model.layers.*.block_sparse_moe.experts.*.w2": "blocks.*.mlp.experts.*.down",
    },
    prefix="model.",
    buffers=("rotary_emb.inv_freq",),
)


def entries_of(member: Member) -> dict[str, str]:
    """Which entry of config.json is which field."""
    return ENTRIES | {member.hidden_entry: "hidden"} | (EXPERT_ENTRIES if member.experts else {})


def read_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling`, from `rope_parameters` or, before transformers 5, from two entries.

    With dynamic scaling also `context`: the file's window is the one before scaling.
    """
    entries: Mapping[str, Any] = config.get("rope_parameters") or config.get("rope_scaling") or {}
    default = MEMBERS[config.get("model_type", "llama")].theta
    theta = float(entries.get("rope_theta") or config.get("rope_theta") or default)
    kind = entries.get("rope_type") or entries.get("type") or "default"
    if any(isinstance(entry, Mapping) for entry in entries.values()):
        raise ModelError("rotary positions that differ by layer are not supported", where="config.json")
    if kind != "default" and kind not in ROPE_KINDS:
        known = ", ".join(["default", *ROPE_KINDS])
        raise ModelError(f"unknown rope_type '{kind}'; choose from: {known}", where="config.json")
    known = ROPE_KINDS.get(kind, ())
    reject_unsupported(entries, {"partial_rotary_factor": (1.0,)} | _unread(entries, known))
    if kind == "default":
        return {"rope_theta": theta}
    missing = [entry for entry in known if entry in ROPE_REQUIRED and entries.get(entry) is None]
    if missing:
        raise ModelError(f"rope_type '{kind}' needs '{missing[0]}'", where="config.json")
    numbers = {entry: entries.get(entry) for entry in known}
    if kind != "linear":
        numbers[ORIGINAL] = _original_context(config, entries, kind)
    scaling = from_entries(RopeScaling, numbers, ROPE_ENTRIES, kind=kind)
    window = {"context": scaling.longest} if kind == "dynamic" else {}  # files have the old one there
    return {"rope_theta": theta, "rope_scaling": scaling, **window}


def _original_context(config: Mapping[str, Any], entries: Mapping[str, Any], kind: str) -> Any:
    """The context before scaling, with transformers' order of places to look for it."""
    told = None if kind == "dynamic" else config.get(ORIGINAL) or entries.get(ORIGINAL)
    return told or config.get("max_position_embeddings")


def _unread(entries: Mapping[str, Any], known: tuple[str, ...]) -> dict[str, tuple[Any, ...]]:
    """Entries of rotary positions that nothing computes with, as `reject_unsupported` takes them."""
    read = {"rope_theta", "rope_type", "type", "partial_rotary_factor", *known}
    return {entry: () for entry in entries if entry not in read}


def write_rope(config: LlamaConfig) -> dict[str, Any]:
    """The entries that `read_rope` reads, for transformers 4 and for 5."""
    scaling, theta = config.rope_scaling, config.rope_theta
    kept = () if scaling is None else ROPE_KINDS[scaling.kind]
    numbers = {entry: getattr(scaling, ROPE_ENTRIES[entry]) for entry in kept}
    rope = {"rope_type": "default" if scaling is None else scaling.kind}
    rope |= {entry: value for entry, value in numbers.items() if value is not None}
    window = {}
    if scaling is not None and scaling.kind == "dynamic":
        window = {"max_position_embeddings": scaling.original_context}
    return {
        **window,
        "rope_theta": theta,
        "rope_scaling": None if scaling is None else rope,
        "rope_parameters": {**rope, "rope_theta": theta},
    }


@dataclass(frozen=True, kw_only=True)
class _Windows:
    """What config.json says of windows."""

    layers: Annotated[int, Ge(0)]
    window: Annotated[int, Ge(0)] = 0
    switched_on: bool = False
    first: Annotated[int, Ge(0)] = 28
    """Qwen: this layer is the first with a window."""
    kinds: tuple[Literal["sliding_attention", "full_attention"], ...] | None = None


def read_windows(config: Mapping[str, Any], model_type: str) -> dict[str, Any]:
    """`window`, 0 for none, and `full_layers`, by transformers' rules and defaults.

    Raises ModelError where `layer_types` says otherwise than the model's transformers class would compute.
    """
    by_layer = MEMBERS[model_type].windows == "by layer"
    default = None if model_type == "mixtral" else 4096
    told = from_entries(_Windows, {"sliding_window": default, **config}, WINDOW_ENTRIES)
    active = told.switched_on if model_type.startswith("qwen") else MEMBERS[model_type].windows != "none"
    window, first = (told.window if active else 0), (told.first if by_layer else 0)
    usual = tuple(KINDS[window > 0 and layer >= first] for layer in range(told.layers))
    kinds = usual if told.kinds is None else told.kinds
    free = by_layer and window > 0 and len(kinds) == told.layers
    if kinds != usual and not free:
        what = f"'layer_types' is {list(kinds)}; with the other entries {model_type} has {list(usual)}"
        raise ModelError(what, where="config.json")
    full = [layer for layer, kind in enumerate(kinds) if window and kind == KINDS[False]]
    return {"window": window, "full_layers": full}


def write_windows(config: LlamaConfig) -> dict[str, Any]:
    """The entries that `read_windows` reads."""
    windows = MEMBERS[config.model_type].windows
    if windows == "none":
        return {}
    entries: dict[str, Any] = {"sliding_window": config.window or None}
    if config.model_type.startswith("qwen"):
        entries["use_sliding_window"] = bool(config.window)
    if windows == "by layer":
        slides = [config.window_of(layer) > 0 for layer in range(config.layers)]
        entries["layer_types"] = [KINDS[slide] for slide in slides]
        entries["max_window_layers"] = slides.index(True) if any(slides) else config.layers
    return entries
