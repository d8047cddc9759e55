"""The contract every decoder family keeps, so that training, generation and editing need no fork per family.

`hidden` runs embed -> blocks -> norm; `forward` is the head of `hidden`. `blocks` is a plain list of modules.
Reward heads, chunked losses, per-block checkpointing, sharding and compile all hang on these names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self, TypeVar

from jaxtyping import Float, Int
from torch import Tensor, nn

from luban.config import build, to_dict
from luban.errors import ConfigError, ModelError, nearest
from luban.nn.cache import Cache, Dense, Isolated

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

    @classmethod
    def sized(cls, shape: Shape) -> Self:
        """A new model's config; raises ModelError where the numbers do not fit."""
        ...

    def to_hf(self) -> dict[str, Any]:
        """Write what `from_hf` reads, with the HF class name in `architectures`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The numbers of a new model as a user states them, for each family's `sized`; 0 leaves one to the family."""

    model_type: str
    vocab: int
    context: int
    dim: int
    layers: int
    heads: int = 0
    kv_heads: int = 0
    hidden: int = 0
    tied: bool = True
    bos_id: int | None = None
    eos_id: int | None = None
    pad_id: int | None = None

    @property
    def query_heads(self) -> int:
        """Heads as given, else one per 64 of `dim`."""
        return self.heads or max(1, self.dim // 64)

    def ungrouped_heads(self) -> int:
        """`query_heads`, for a family that has as many of keys; raises ModelError where they are to be fewer."""
        if self.kv_heads not in (0, self.query_heads):
            raise ModelError(
                f"kv_heads {self.kv_heads} for {self.query_heads} heads; '{self.model_type}' has as many of both"
            )
        return self.query_heads


class CausalLM(nn.Module):
    """A decoder over token ids. A family's module derives from it and says what `hidden` is.

    A family whose blocks do not attend also says what its slots are (`make_cache`, `isolate`).
    """

    entrance: ClassVar[tuple[str, ...]] = ()
    """Modules with weights before the blocks, for a pipeline's first stage; none where `hidden` is not
    entrance -> blocks -> norm."""
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

    def tie(self) -> None:
        """Share the embedding's weight with the head."""
        self.head.weight = self.embedding.weight

    def make_cache(self, *, batch: int, capacity: int, valid: Tensor | None = None) -> Cache:
        """Empty slots for `capacity` tokens a row; `valid` [batch, capacity] is False at left padding."""
        return [dense_slot(self, batch=batch, capacity=capacity, valid=valid) for _ in self.blocks]

    def isolate(self, documents: Int[Tensor, "batch seq"]) -> Cache:
        """Slots for a pass over packed rows in which documents do not see each other."""
        return [Isolated(documents)] * len(self.blocks)

    def run_blocks(self, x: Tensor, cache: Cache | None, *context: Tensor | tuple[Tensor, ...]) -> Tensor:
        """`x` through all blocks, each with what they share in this pass and its own slot of `cache`."""
        slots = [None] * len(self.blocks) if cache is None else cache
        for block, slot in zip(self.blocks, slots, strict=True):
            x = block(x, *context, slot)
        return x


def dense_slot(
    model: Any, *, batch: int, capacity: int, valid: Tensor | None = None, window: int = 0
) -> Dense:
    """Room for the keys and values of one of `model`'s blocks, on its device and in its dtype."""
    weight: Tensor = model.embedding.weight
    return Dense(
        batch=batch,
        kv_heads=model.config.kv_heads,
        capacity=capacity,
        head_dim=model.config.head_dim,
        dtype=weight.dtype,
        device=weight.device,
        valid=valid,
        window=window,
    )


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


def own_entries(config: Any) -> dict[str, Any]:
    """The `config.json` of a family without an HF class: its config's fields by their own names."""
    return to_dict(config)


def from_own_entries(cls: type[T], entries: Mapping[str, Any]) -> T:
    """What `own_entries` wrote; raises ModelError naming an entry that is unknown, missing or of a wrong type."""
    fields = {field.name: field for field in dataclasses.fields(cls)}  # pyright: ignore[reportArgumentType] - cls is a dataclass
    for entry in entries:
        if entry not in fields:
            raise ModelError(f"unknown entry '{entry}'; {nearest(entry, fields)}", where="config.json")
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and name not in entries:
            raise ModelError(f"entry '{name}' is missing", where="config.json")
    try:
        return build(cls, entries, where="config.json")
    except ConfigError as error:
        raise ModelError(error.what, where=error.where) from None


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


def labels_entry(config: Mapping[str, Any]) -> tuple[str, ...]:
    """What a classifier chooses from, in the order of its outputs; HF leaves out two labels without names."""
    named = config.get("id2label")
    if named is None:
        return tuple(f"LABEL_{number}" for number in range(config.get("num_labels", 2)))
    if not isinstance(named, Mapping) or sorted(named, key=str) != sorted(map(str, range(len(named)))):
        raise ModelError(f"'id2label' is {named!r}, not a name for each of 0, 1, ...", where="config.json")
    return tuple(str(named[str(number)]) for number in range(len(named)))


def labels_as_entries(labels: Sequence[str]) -> dict[str, Any]:
    """What `labels_entry` reads, and its inverse, as HF has them."""
    return {
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
    }
