"""A GGUF file of the LLaMA architecture as a model folder in Hugging Face layout.

Weights are dequantised exactly, to float32; llama.cpp's reordering of query and key rows (for its kind of
rotary embedding) is undone; tokenizer and chat template are rebuilt from the file's own metadata.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luban.errors import MachineError, ModelError, nearest
from luban.folder import write_json

if TYPE_CHECKING:
    import numpy as np

ARCHITECTURES = ("llama",)
TENSORS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
BLOCK_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "rope.dimension_count",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
PRE_TOKENIZERS: dict[str, dict[str, Any]] = {
    "gpt-2": BYTE_LEVEL,
    "smollm": {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL],
    },
}
CONTROL, USER_DEFINED = 3, 4
"""The token types of GGUF that are never the result of merges."""

Metadata = Mapping[str, Any]


def convert(file: Path, out: Path) -> dict[str, Any]:
    """Write the model folder into `out`; returns its parameter count.

    Raises ModelError if the file is no GGUF or of an architecture, vocabulary or tensor that is not known
    here, MachineError without the `gguf` package.
    """
    try:
        import gguf
    except ImportError:
        raise MachineError("reading GGUF takes the package gguf", hint="pip install 'luban[hub]'") from None
    try:
        reader = gguf.GGUFReader(file)
    except (ValueError, IndexError) as error:
        raise ModelError(f"not a GGUF file: {error}", where=file) from None
    metadata = {name: entry.contents() for name, entry in reader.fields.items()}
    config = hf_config(metadata, where=file)
    weights = {}
    for tensor in reader.tensors:
        name = hf_name(tensor.name, where=file)
        array = gguf.dequantize(tensor.data, tensor.tensor_type)
        weights[name] = unpermute(name, array, config)
    config["tie_word_embeddings"] = "lm_head.weight" not in weights
    _save_weights(weights, out)
    write_json(out / "config.json", config)
    write_json(out / "generation_config.json", _special_ids(metadata))
    write_json(out / "tokenizer.json", tokenizer_json(metadata, where=file))
    write_json(out / "tokenizer_config.json", tokenizer_config(metadata))
    return {"parameters": sum(array.size for array in weights.values())}


def hf_config(metadata: Metadata, *, where: object) -> dict[str, Any]:
    """`config.json` from the file's metadata; raises ModelError on another architecture or a missing entry."""
    architecture = metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ModelError(
            f"GGUF architecture '{architecture}' is not known; choose from: {known}", where=where
        )
    if f"{architecture}.rope.scaling.type" in metadata:
        raise ModelError("scaled rotary embeddings in GGUF are not known here", where=where)
    missing = [key for key in SIZES.values() if f"{architecture}.{key}" not in metadata]
    if missing:
        raise ModelError(f"the metadata lacks {architecture}.{missing[0]}", where=where)
    sizes = {name: metadata[f"{architecture}.{key}"] for name, key in SIZES.items()}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": "float32",
        **{name: _shortest_float(value) for name, value in sizes.items()},
        **_special_ids(metadata),
    }


def hf_name(name: str, *, where: object) -> str:
    """The Hugging Face name of a GGUF tensor: `blk.3.attn_q.weight` is `model.layers.3.self_attn.q_proj.weight`.

    Raises ModelError for a tensor that no LLaMA has.
    """
    parts = name.split(".")
    if len(parts) == 2 and parts[0] in TENSORS:
        return f"{TENSORS[parts[0]]}.{parts[1]}"
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in BLOCK_TENSORS:
        return f"model.layers.{parts[1]}.{BLOCK_TENSORS[parts[2]]}.{parts[3]}"
    raise ModelError(f"tensor '{name}' has no place in a LLaMA; {nearest(name, TENSORS)}", where=where)


def unpermute(name: str, array: np.ndarray, config: Mapping[str, Any]) -> np.ndarray:
    """Query and key rows in Hugging Face's order; other weights as they are.

    llama.cpp rotates neighbouring rows of a head (2i, 2i+1), Hugging Face rows i and i + head_dim / 2.
    """
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(name.split(".")[-2])
    if heads is None:
        return array
    rows, columns = array.shape
    halves = array.reshape(config[heads], rows // config[heads] // 2, 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def tokenizer_json(metadata: Metadata, *, where: object) -> dict[str, Any]:
    """A `tokenizer.json` of the same ids; raises ModelError for another kind of vocabulary or split."""
    kind, split = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if kind != "gpt2" or split not in PRE_TOKENIZERS:
        known = ", ".join(f"gpt2/{name}" for name in PRE_TOKENIZERS)
        raise ModelError(f"vocabulary '{kind}/{split}' is not known; choose from: {known}", where=where)
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    added = [index for index, kind in enumerate(types) if kind in (CONTROL, USER_DEFINED)]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(index, tokens[index], types[index]) for index in added],
        "normalizer": None,
        "pre_tokenizer": PRE_TOKENIZERS[split],
        "post_processor": None,
        "decoder": BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in metadata["tokenizer.ggml.merges"]],
        },
    }


def tokenizer_config(metadata: Metadata) -> dict[str, Any]:
    """`tokenizer_config.json`: the special tokens by name, and the chat template if there is one."""
    tokens = metadata["tokenizer.ggml.tokens"]
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    ids = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in names.items()}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": metadata.get("tokenizer.ggml.add_bos_token", False),
        "clean_up_tokenization_spaces": False,
        "model_max_length": metadata["llama.context_length"],
        **{name: tokens[index] for name, index in ids.items() if index is not None},
    }
    template = metadata.get("tokenizer.chat_template")
    return settings | ({"chat_template": template} if template else {})


def _added_token(index: int, content: str, kind: int) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": index, "content": content, "special": kind == CONTROL, **plain}


def _special_ids(metadata: Metadata) -> dict[str, Any]:
    keys = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    found = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in keys.items()}
    return {name: value for name, value in found.items() if value is not None}


def _shortest_float(value: Any) -> Any:
    """The number as it was written before float32 rounded it: 1e-05, not 9.999999747378752e-06."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _save_weights(weights: dict[str, np.ndarray], out: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    plain = {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in weights.items()}
    save_file(plain, out / "model.safetensors", metadata={"format": "pt"})
