"""What GGUF calls the numbers and the weights of each architecture: one table, read in both directions.

A name of Hugging Face's, `*` standing for a layer's number, has one of llama.cpp's; `config.json` and the file's
metadata say the same of sizes. `write.py` and `read.py` follow these tables.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from luban.errors import ModelError, nearest
from luban.gguf import rope

Metadata = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One of llama.cpp's architectures and the families of Hugging Face that it computes."""

    name: str
    model_types: tuple[str, ...]
    """Families it stands for; a file of it is read as the first."""
    modules: Mapping[str, str]
    """HF's names of modules, with llama.cpp's."""
    sizes: Mapping[str, str]
    """Entries of config.json, with the metadata's keys behind the architecture's name."""
    optional: tuple[str, ...] = ()
    """Entries that files may leave out."""
    constants: Mapping[str, Any]
    """What a config.json of it always says."""
    neighbours: Mapping[str, str] | None = None
    """Projections whose rows are turned in neighbouring pairs, with the entry that counts their heads."""
    transposed: tuple[str, ...] = ()
    """Ends of names of modules that HF keeps as [inputs, outputs]."""

    def written(self, name: str) -> str:
        """llama.cpp's name of HF's tensor `name`; raises ModelError where it has none."""
        return _renamed(name, self.modules) or _raise_unknown(name, self.modules, self.name)

    def read(self, name: str) -> str:
        """HF's name of llama.cpp's tensor `name`; raises ModelError where there is no such place."""
        inverse = {theirs: ours for ours, theirs in self.modules.items()}
        return _renamed(name, inverse) or _raise_unknown(name, inverse, self.name)


def _renamed(name: str, modules: Mapping[str, str]) -> str | None:
    module, _, leaf = name.rpartition(".")
    numbers = re.findall(r"(?<=\.)\d+(?=\.|$)", module)
    pattern = re.sub(r"(?<=\.)\d+(?=\.|$)", "*", module)
    if pattern not in modules or leaf not in ("weight", "bias"):
        return None
    left = iter(numbers)
    return re.sub(r"\*", lambda _: next(left), modules[pattern]) + f".{leaf}"


def _raise_unknown(name: str, modules: Mapping[str, str], architecture: str) -> str:
    raise ModelError(f"tensor '{name}' has no place in a '{architecture}'; {nearest(name, modules)}")


_LLAMA_SIZES = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
}
_LLAMA_MODULES = {
    "model.embed_tokens": "token_embd",
    "model.layers.*.input_layernorm": "blk.*.attn_norm",
    "model.layers.*.self_attn.q_proj": "blk.*.attn_q",
    "model.layers.*.self_attn.k_proj": "blk.*.attn_k",
    "model.layers.*.self_attn.v_proj": "blk.*.attn_v",
    "model.layers.*.self_attn.o_proj": "blk.*.attn_output",
    "model.layers.*.post_attention_layernorm": "blk.*.ffn_norm",
    "model.layers.*.mlp.gate_proj": "blk.*.ffn_gate",
    "model.layers.*.mlp.up_proj": "blk.*.ffn_up",
    "model.layers.*.mlp.down_proj": "blk.*.ffn_down",
    "model.norm": "output_norm",
    "lm_head": "output",
}
_LLAMA: dict[str, Any] = {"sizes": _LLAMA_SIZES, "optional": ("num_key_value_heads", "rope_theta")}


def _constants(model_type: str, hf_class: str, **more: Any) -> dict[str, Any]:
    plain = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "torch_dtype": "float32"}
    return {"architectures": [hf_class], "model_type": model_type, **(more or plain)}


ARCHITECTURES = {
    "llama": Architecture(
        name="llama",
        model_types=("llama", "mistral"),
        modules=_LLAMA_MODULES,
        constants=_constants("llama", "LlamaForCausalLM"),
        neighbours={"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"},
        **_LLAMA,
    ),
    "qwen2": Architecture(
        name="qwen2",
        model_types=("qwen2",),
        modules=_LLAMA_MODULES,
        constants=_constants("qwen2", "Qwen2ForCausalLM") | {"use_sliding_window": False},
        **_LLAMA,
    ),
    "qwen3": Architecture(
        name="qwen3",
        model_types=("qwen3",),
        modules=_LLAMA_MODULES
        | {
            "model.layers.*.self_attn.q_norm": "blk.*.attn_q_norm",
            "model.layers.*.self_attn.k_norm": "blk.*.attn_k_norm",
        },
        constants=_constants("qwen3", "Qwen3ForCausalLM") | {"use_sliding_window": False},
        **_LLAMA,
    ),
    "gpt2": Architecture(
        name="gpt2",
        model_types=("gpt2",),
        modules={
            "transformer.wte": "token_embd",
            "transformer.wpe": "position_embd",
            "transformer.h.*.ln_1": "blk.*.attn_norm",
            "transformer.h.*.attn.c_attn": "blk.*.attn_qkv",
            "transformer.h.*.attn.c_proj": "blk.*.attn_output",
            "transformer.h.*.ln_2": "blk.*.ffn_norm",
            "transformer.h.*.mlp.c_fc": "blk.*.ffn_up",
            "transformer.h.*.mlp.c_proj": "blk.*.ffn_down",
            "transformer.ln_f": "output_norm",
            "lm_head": "output",
        },
        sizes={
            "n_embd": "embedding_length",
            "n_inner": "feed_forward_length",
            "n_layer": "block_count",
            "n_head": "attention.head_count",
            "n_positions": "context_length",
            "layer_norm_epsilon": "attention.layer_norm_epsilon",
        },
        optional=("n_inner",),
        constants=_constants(
            "gpt2", "GPT2LMHeadModel", activation_function="gelu_new", torch_dtype="float32"
        ),
        transposed=("c_attn", "c_proj", "c_fc"),
    ),
}
"""By `general.architecture`."""


def for_family(model_type: str, *, where: object) -> Architecture:
    """The architecture that computes a family; raises ModelError where llama.cpp's names are not known here."""
    for architecture in ARCHITECTURES.values():
        if model_type in architecture.model_types:
            return architecture
    known = ", ".join(name for each in ARCHITECTURES.values() for name in each.model_types)
    what = f"the family '{model_type}' has no GGUF names here; those that have: {known}"
    raise ModelError(what, where=where, hint="export it with --quantize")


def for_file(metadata: Metadata, *, where: object) -> Architecture:
    """The architecture of a file; raises ModelError where it is not known here."""
    name = metadata.get("general.architecture")
    if name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ModelError(f"GGUF architecture '{name}' is not known; choose from: {known}", where=where)
    return ARCHITECTURES[name]


def metadata_of(architecture: Architecture, entries: Mapping[str, Any], *, where: object) -> dict[str, Any]:
    """The file's numbers, by their whole keys, out of config.json's `entries`.

    Raises ModelError for what llama.cpp would compute otherwise: windows, kinds of scaled rotation.
    """
    name = architecture.name
    if entries.get("sliding_window") and "layer_types" not in entries:
        raise ModelError("attention in windows has no GGUF names here", where=where)
    if "sliding_attention" in (entries.get("layer_types") or []):
        raise ModelError("attention in windows has no GGUF names here", where=where)
    numbers = {f"{name}.{key}": entries[entry] for entry, key in architecture.sizes.items()}
    numbers[f"{name}.vocab_size"] = entries["vocab_size"]
    if "head_dim" in entries:
        lengths = ("rope.dimension_count", "attention.key_length", "attention.value_length")
        numbers |= {f"{name}.{key}": entries["head_dim"] for key in lengths}
    return numbers | rope.metadata_of(name, entries, where=where)


def config_of(architecture: Architecture, metadata: Metadata, *, where: object) -> dict[str, Any]:
    """`config.json` out of a file's metadata; raises ModelError where a number is missing."""
    name = architecture.name
    told = {entry: metadata.get(f"{name}.{key}") for entry, key in architecture.sizes.items()}
    missing = [entry for entry, value in told.items() if value is None and entry not in architecture.optional]
    if missing:
        raise ModelError(f"the metadata lacks {name}.{architecture.sizes[missing[0]]}", where=where)
    told["vocab_size"] = metadata.get(f"{name}.vocab_size") or len(metadata.get("tokenizer.ggml.tokens", ()))
    if "hidden_size" in told:
        lengths = [metadata.get(f"{name}.{key}") for key in ("rope.dimension_count", "attention.key_length")]
        width, heads = metadata[f"{name}.embedding_length"], metadata[f"{name}.attention.head_count"]
        told["head_dim"] = next(filter(None, lengths), width // heads)
        told["num_key_value_heads"] = told["num_key_value_heads"] or heads
    return {
        **architecture.constants,
        **{entry: _shortest_float(value) for entry, value in told.items() if value is not None},
        **rope.entries_of(name, metadata, where=where),
        **special_ids(metadata),
    }


def special_ids(metadata: Metadata) -> dict[str, Any]:
    """Entries of config.json for the tokens that begin, end and fill; an answer may end with either of two."""
    keys = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    found = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in keys.items()}
    turn = metadata.get("tokenizer.ggml.eot_token_id")
    if turn is not None and found["eos_token_id"] not in (None, turn):
        found["eos_token_id"] = [found["eos_token_id"], turn]
    return {name: value for name, value in found.items() if value is not None}


def turned(architecture: Architecture, name: str, entries: Mapping[str, Any]) -> int:
    """How many heads the tensor of HF's `name` has whose rows are turned in neighbouring pairs; 0 for none."""
    parts: Sequence[str] = name.split(".")
    entry = (architecture.neighbours or {}).get(parts[-2]) if len(parts) > 1 else None
    return 0 if entry is None else entries[entry]


def _shortest_float(value: Any) -> Any:
    """The number as it was written before float32 rounded it: 1e-05, not 9.999999747378752e-06."""
    return float(f"{value:.7g}") if isinstance(value, float) else value
