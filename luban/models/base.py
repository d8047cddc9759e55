"""The contract every decoder family keeps, so that training, generation and editing need no fork per family.

`hidden` runs embed -> blocks -> norm; `forward` is the head of `hidden`. `blocks` is a plain list of modules.
Reward heads, chunked losses, per-block checkpointing, sharding and compile all hang on these names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from luban.nn.cache import Cache, Dense


class ModelConfig(Protocol):
    """What every family's config says; each family adds its own numbers."""

    @property
    def model_type(self) -> str:
        """HF's name of the family: `gpt2`, `llama`, `qwen2`, ..."""
        ...

    vocab: int
    dim: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Self:
        """Read an HF `config.json`; raises ModelError naming a missing or unsupported entry."""
        ...

    def to_hf(self) -> dict[str, Any]:
        """Write what `from_hf` reads, with the HF class name in `architectures`."""
        ...


class CausalLM(Protocol):
    """A decoder over token ids. Also an `nn.Module`."""

    config: Any  # a ModelConfig
    blocks: nn.ModuleList
    embedding: nn.Embedding
    head: nn.Linear  # no bias; shares `embedding.weight` where the family is tied

    def hidden(
        self,
        tokens: Int[Tensor, "batch seq"] | None,
        positions: Int[Tensor, "batch seq"] | None = None,
        cache: Cache | None = None,
        embeds: Float[Tensor, "batch seq dim"] | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """States after the last norm. `positions` defaults to 0, 1, 2, ...; `embeds` replaces `tokens`."""
        ...

    def forward(
        self,
        tokens: Int[Tensor, "batch seq"] | None,
        positions: Int[Tensor, "batch seq"] | None = None,
        cache: Cache | None = None,
        embeds: Float[Tensor, "batch seq dim"] | None = None,
    ) -> Float[Tensor, "batch seq vocab"]:
        """Logits: `head(hidden(...))`."""
        ...


def dense_cache(model: Any, *, batch: int, capacity: int, valid: Tensor | None = None) -> list[Dense]:
    """One `Dense` slot per block of `model`, on its device and in its dtype."""
    weight: torch.Tensor = model.embedding.weight
    config = model.config
    return [
        Dense(
            batch=batch,
            kv_heads=config.kv_heads,
            capacity=capacity,
            head_dim=config.head_dim,
            dtype=weight.dtype,
            device=weight.device,
            valid=valid,
        )
        for _ in model.blocks
    ]


def parameter_count(model: nn.Module) -> int:
    """Trainable and frozen parameters, shared ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())
