"""Published sizes of the LLaMA family by name: numbers only, as their config.json files state them.

`hf.build(presets.smollm2_135m())` is such a model with fresh weights; `luban models` lists them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from luban.models.llama import LlamaConfig
from luban.nn.rope_scaling import RopeScaling

_MISTRAL: dict[str, Any] = {
    "vocab": 32_000,
    "dim": 4096,
    "layers": 32,
    "heads": 32,
    "kv_heads": 8,
    "hidden": 14_336,
    "context": 32_768,
    "norm_eps": 1e-5,
}
_LLAMA3: dict[str, Any] = {"vocab": 128_256, "rope_theta": 500_000.0, "norm_eps": 1e-5}
_SMOLLM2: dict[str, Any] = {"vocab": 49_152, "context": 8192, "norm_eps": 1e-5, "tied": True}
_QWEN: dict[str, Any] = {"vocab": 151_936, "rope_theta": 1e6}


def llama_7b() -> LlamaConfig:
    """Touvron et al. 2023, table 2 (arXiv:2302.13971)."""
    return LlamaConfig(vocab=32_000, dim=4096, layers=32, heads=32, hidden=11_008, context=2048)


def llama2_7b() -> LlamaConfig:
    """Touvron et al. 2023 (arXiv:2307.09288): twice the context of the first."""
    return LlamaConfig(
        vocab=32_000, dim=4096, layers=32, heads=32, hidden=11_008, context=4096, norm_eps=1e-5
    )


def llama2_70b() -> LlamaConfig:
    """Touvron et al. 2023 (arXiv:2307.09288): eight query heads to a key head."""
    return LlamaConfig(
        vocab=32_000, dim=8192, layers=80, heads=64, kv_heads=8, hidden=28_672, context=4096, norm_eps=1e-5
    )


def llama3_8b() -> LlamaConfig:
    """Dubey et al. 2024, table 3 (arXiv:2407.21783), before its context was extended."""
    return LlamaConfig(**_LLAMA3, dim=4096, layers=32, heads=32, kv_heads=8, hidden=14_336, context=8192)


def llama3_1_8b() -> LlamaConfig:
    """Dubey et al. 2024, section 3.4.2 (arXiv:2407.21783): 128k tokens by slower rotation."""
    scaling = RopeScaling(kind="llama3", factor=8.0)
    numbers = {**_LLAMA3, "dim": 4096, "layers": 32, "heads": 32, "kv_heads": 8, "hidden": 14_336}
    return LlamaConfig(**numbers, context=131_072, rope_scaling=scaling)


def llama3_2_1b() -> LlamaConfig:
    """Meta 2024, Llama 3.2 model card: pruned from the 8B, tied."""
    scaling = RopeScaling(kind="llama3", factor=32.0)
    numbers = {**_LLAMA3, "dim": 2048, "layers": 16, "heads": 32, "kv_heads": 8, "hidden": 8192}
    return LlamaConfig(**numbers, context=131_072, rope_scaling=scaling, tied=True)


def smollm2_135m() -> LlamaConfig:
    """Allal et al. 2025 (arXiv:2502.02737)."""
    return LlamaConfig(**_SMOLLM2, dim=576, layers=30, heads=9, kv_heads=3, hidden=1536, rope_theta=100_000.0)


def smollm2_360m() -> LlamaConfig:
    """Allal et al. 2025 (arXiv:2502.02737)."""
    return LlamaConfig(
        **_SMOLLM2, dim=960, layers=32, heads=15, kv_heads=5, hidden=2560, rope_theta=100_000.0
    )


def smollm2_1_7b() -> LlamaConfig:
    """Allal et al. 2025 (arXiv:2502.02737)."""
    return LlamaConfig(**_SMOLLM2, dim=2048, layers=24, heads=32, hidden=8192, rope_theta=130_000.0)


def mistral_7b() -> LlamaConfig:
    """Jiang et al. 2023, table 1 (arXiv:2310.06825): each layer sees 4096 places."""
    return LlamaConfig(model_type="mistral", **_MISTRAL, window=4096)


def mixtral_8x7b() -> LlamaConfig:
    """Jiang et al. 2024, table 1 (arXiv:2401.04088): two of eight experts for each token."""
    return LlamaConfig(model_type="mixtral", **_MISTRAL, rope_theta=1e6, experts=8, experts_per_token=2)


def qwen2_0_5b() -> LlamaConfig:
    """Yang et al. 2024, table 1 (arXiv:2407.10671)."""
    numbers = {**_QWEN, "dim": 896, "layers": 24, "heads": 14, "kv_heads": 2, "hidden": 4864}
    return LlamaConfig(model_type="qwen2", **numbers, context=131_072, tied=True)


def qwen3_0_6b() -> LlamaConfig:
    """Yang et al. 2025, table 1 (arXiv:2505.09388): heads of 128, wider together than the stream."""
    numbers = {**_QWEN, "dim": 1024, "layers": 28, "heads": 16, "kv_heads": 8, "head_dim": 128}
    return LlamaConfig(model_type="qwen3", **numbers, hidden=3072, context=40_960, tied=True)


def qwen3_30b_a3b() -> LlamaConfig:
    """Yang et al. 2025, table 2 (arXiv:2505.09388): 8 of 128 small experts for each token."""
    numbers = {**_QWEN, "dim": 2048, "layers": 48, "heads": 32, "kv_heads": 4, "head_dim": 128}
    return LlamaConfig(
        model_type="qwen3_moe", **numbers, hidden=768, experts=128, experts_per_token=8, context=40_960
    )


PRESETS: dict[str, Callable[[], LlamaConfig]] = {
    "llama-7b": llama_7b,
    "llama2-7b": llama2_7b,
    "llama2-70b": llama2_70b,
    "llama3-8b": llama3_8b,
    "llama3.1-8b": llama3_1_8b,
    "llama3.2-1b": llama3_2_1b,
    "smollm2-135m": smollm2_135m,
    "smollm2-360m": smollm2_360m,
    "smollm2-1.7b": smollm2_1_7b,
    "mistral-7b": mistral_7b,
    "mixtral-8x7b": mixtral_8x7b,
    "qwen2-0.5b": qwen2_0_5b,
    "qwen3-0.6b": qwen3_0_6b,
    "qwen3-30b-a3b": qwen3_30b_a3b,
}
"""By the name `luban models` gives them."""
