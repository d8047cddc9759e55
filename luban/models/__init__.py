"""One file per model family: config, wiring, Hugging Face names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from luban.models import gpt2, llama
from luban.models.base import CausalLM
from luban.models.names import Names


@dataclass(frozen=True)
class Family:
    """What it takes to read, build and write a model of one `model_type`."""

    config: type[Any]  # a ModelConfig
    model: type[CausalLM]
    names: Names


FAMILIES = {
    "gpt2": Family(gpt2.GPT2Config, gpt2.GPT2, gpt2.NAMES),
    "llama": Family(llama.LlamaConfig, llama.Llama, llama.NAMES),
    "mistral": Family(llama.LlamaConfig, llama.Llama, llama.NAMES),
    "qwen2": Family(llama.LlamaConfig, llama.Llama, llama.NAMES),
    "qwen3": Family(llama.LlamaConfig, llama.Llama, llama.NAMES),
}
"""By the `model_type` in `config.json`."""
