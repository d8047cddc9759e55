"""The contract every decoder family keeps, so that training, generation and editing need no fork per family.

`hidden` runs embed -> blocks -> norm; `forward` is the head of `hidden`. `blocks` is a plain list of modules.
Reward heads, chunked losses, per-block checkpointing, sharding and compile all hang on these names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, Self, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from luban.config import build
from luban.errors import ConfigError, ModelError
from luban.nn.cache import Cache, Dense

T = TypeVar("T")


class ModelConfig(Protocol):
    """What every family's config says; each family adds its own numbers. A frozen dataclass."""

    @property
    def model_type(self) -> str:
        """HF's name of the family: `gpt2`, `llama`, `qwen2`, ..."""
        ...

    @property
    def vocab(self) -> int: ...
    @property
    def dim(self) -> int: ...
    @property
    def layers(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def hidden(self) -> int: ...
    @property
    def context(self) -> int: ...
    @property
    def tied(self) -> bool: ...
    @property
    def dtype(self) -> str: ...

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Self:
        """Read an HF `config.json`; raises ModelError naming a missing or unsupported entry."""
        ...

    def to_hf(self) -> dict[str, Any]:
        """Write what `from_hf` reads, with the HF class name in `architectures`."""
        ...


class CausalLM(nn.Module):
    """A decoder over token ids. A family's module derives from it and says what `hidden` is."""

    config: Any  # the family's ModelConfig
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
        """States after the last norm.

        `positions` defaults to 0, 1, 2, ..., whatever the cache holds: pass them when it is not empty.
        `embeds` replaces `tokens`.
        """
        raise NotImplementedError

    def forward(
        self,
        tokens: Int[Tensor, "batch seq"] | None,
        positions: Int[Tensor, "batch seq"] | None = None,
        cache: Cache | None = None,
        embeds: Float[Tensor, "batch seq dim"] | None = None,
    ) -> Float[Tensor, "batch seq vocab"]:
        """Logits: `head(hidden(...))`."""
        return self.head(self.hidden(tokens, positions, cache, embeds))

    def run_blocks(self, x: Tensor, cache: Cache | None, *context: Tensor | tuple[Tensor, ...]) -> Tensor:
        """`x` through all blocks, each with what they share in this pass and its own slot of `cache`."""
        slots = [None] * len(self.blocks) if cache is None else cache
        for block, slot in zip(self.blocks, slots, strict=True):
            x = block(x, *context, slot)
        return x


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


def from_entries(cls: type[T], config: Mapping[str, Any], names: Mapping[str, str], **more: Any) -> T:
    """A `cls` from HF's entries, `names` telling which entry is which field; null counts as absent.

    Raises ModelError that names the entry which is missing or of the wrong type.
    """
    tree = {field: config[entry] for entry, field in names.items() if config.get(entry) is not None}
    required = {field.name for field in dataclasses.fields(cls) if field.default is dataclasses.MISSING}  # pyright: ignore[reportArgumentType] - cls is a dataclass
    for entry, field in names.items():
        if field in required and field not in tree:
            raise ModelError(f"entry '{entry}' is missing", where="config.json")
    try:
        return build(cls, tree | more, where="config.json")
    except ConfigError as error:
        read = ", ".join(
            f"{field} is '{entry}'" for entry, field in names.items() if f"'{field}'" in error.what
        )
        raise ModelError(error.what, where=error.where, hint=read or error.hint) from None


def reject_unsupported(config: Mapping[str, Any], only: Mapping[str, tuple[Any, ...]]) -> None:
    """Raise ModelError for an entry that is there, not null, and none of the values we compute with."""
    for entry, supported in {"quantization_config": (), **only}.items():
        value = config.get(entry)
        if value is not None and value not in supported:
            can = " or ".join(repr(item) for item in supported) or "none"
            raise ModelError(f"'{entry}' is {value!r}; supported: {can}", where="config.json")


def dtype_entry(config: Mapping[str, Any]) -> str:
    """The weights' dtype by name, from `dtype` or its older name `torch_dtype`; float32 where neither is."""
    return str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")
