"""Tiny random `transformers` models on disk: what our families are compared with. Oracles, offline."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers

VOCAB = 97
CONTEXT = 64
BODY: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.2,
}
LLAMA3: dict[str, Any] = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN: dict[str, Any] = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
MIXED_LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]
BLOOM_BODY: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "n_layer": 3,
    "n_head": 4,
    "initializer_range": 0.2,
}
BLOOM_SIX_HEADS: dict[str, Any] = BLOOM_BODY | {"n_head": 6, "hidden_size": 48}
QWEN3_MOE_BODY: dict[str, Any] = BODY | {
    "head_dim": 16,
    "moe_intermediate_size": 24,
    "num_experts": 6,
    "num_experts_per_tok": 3,
}
GPT2_BODY: dict[str, Any] = {
    "vocab_size": VOCAB,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": CONTEXT,
}
MAMBA_BODY: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "state_size": 8,
    "num_hidden_layers": 3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaConfig(**BODY, eos_token_id=[2, 5]),
    "llama tied": lambda: transformers.LlamaConfig(**BODY, tie_word_embeddings=True),
    "llama wide heads": lambda: transformers.LlamaConfig(
        **BODY, head_dim=16, rope_parameters={"rope_type": "default", "rope_theta": 500.0}
    ),
    "llama llama3 rope": lambda: transformers.LlamaConfig(**BODY, rope_parameters=dict(LLAMA3)),
    "llama linear rope": lambda: transformers.LlamaConfig(
        **BODY, rope_parameters={"rope_type": "linear", "factor": 4.0}
    ),
    "llama yarn rope": lambda: transformers.LlamaConfig(**BODY, rope_parameters=dict(YARN)),
    "llama dynamic rope": lambda: transformers.LlamaConfig(
        **BODY, rope_parameters={"rope_type": "dynamic", "factor": 4.0}
    ),
    "mistral": lambda: transformers.MistralConfig(**BODY, sliding_window=None),
    "mistral window": lambda: transformers.MistralConfig(**BODY, sliding_window=5),
    "mixtral": lambda: transformers.MixtralConfig(**BODY, num_local_experts=5, sliding_window=7),
    "qwen2": lambda: transformers.Qwen2Config(**BODY),
    "qwen2 windows": lambda: transformers.Qwen2Config(
        **BODY, use_sliding_window=True, sliding_window=5, max_window_layers=1
    ),
    "qwen3": lambda: transformers.Qwen3Config(**BODY, head_dim=16),
    "qwen3 windows": lambda: transformers.Qwen3Config(
        **BODY, use_sliding_window=True, sliding_window=5, layer_types=MIXED_LAYERS
    ),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(**QWEN3_MOE_BODY),
    "bloom": lambda: transformers.BloomConfig(**BLOOM_BODY),
    "bloom odd heads": lambda: transformers.BloomConfig(**BLOOM_SIX_HEADS),
    "mamba": lambda: transformers.MambaConfig(**MAMBA_BODY),
    "mamba untied": lambda: transformers.MambaConfig(
        **MAMBA_BODY,
        tie_word_embeddings=False,
        use_conv_bias=False,
        time_step_rank=3,
        expand=3,
        conv_kernel=3,
    ),
    "gpt2": lambda: transformers.GPT2Config(**GPT2_BODY, initializer_range=0.2),
}


@functools.cache
def reference(name: str) -> tuple[Any, Path]:
    """A `transformers` model in evaluation mode, and the folder it was saved to (do not write there)."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[name]()).eval()
    for parameter in model.parameters():  # biases and norms too, or a mistake in them would not show
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=0.5, std=0.3)
    folder = Path(_scratch().name) / name
    model.save_pretrained(folder)
    return model, folder


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="luban-references-")


@torch.no_grad()
def logits_of(model: Any, tokens: torch.Tensor, **arguments: Any) -> torch.Tensor:
    """The reference's logits."""
    return model(tokens, **arguments).logits
