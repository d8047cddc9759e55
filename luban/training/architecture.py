"""The shape of a new model as a user states it, and the family config it becomes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

from annotated_types import Ge

from luban.errors import ConfigError, nearest
from luban.tokenizers.base import Tokenizer


@dataclass(frozen=True, kw_only=True)
class ArchitectureConfig:
    """The shape of a new model; `luban plan` proposes one for a time budget."""

    model_type: str = "llama"
    """Family: a name that `luban models` lists."""
    layers: Annotated[int, Ge(1)] = 4
    """Blocks."""
    dim: Annotated[int, Ge(8)] = 256
    """Width of the residual stream."""
    heads: Annotated[int, Ge(0)] = 0
    """Query heads; 0 means one per 64 of `dim`."""
    kv_heads: Annotated[int, Ge(0)] = 0
    """Key and value heads (GQA); 0 means as many as query heads."""
    hidden: Annotated[int, Ge(0)] = 0
    """Width of the MLP; 0 means the family's own: 4 times `dim`, or 8/3 of it where the MLP is gated."""
    tied: bool = True
    """Share the embedding with the head."""
    context: Annotated[int, Ge(0)] = 0
    """Window the model is declared for; 0 means `loop.max_length`."""


class OfArchitecture(Protocol):
    """A stage's config with these two settings."""

    @property
    def model(self) -> Path | None: ...
    @property
    def architecture(self) -> ArchitectureConfig: ...


C = TypeVar("C", bound=OfArchitecture)


def family_named(config: C) -> C:
    """`model=mamba` as `architecture.model_type=mamba`, unless there is such a folder."""
    from luban.models import FAMILIES

    if config.model is None or str(config.model) not in FAMILIES or config.model.exists():
        return config
    shape = dataclasses.replace(config.architecture, model_type=str(config.model))
    return dataclasses.replace(config, model=None, architecture=shape)  # pyright: ignore[reportArgumentType] - every Config is a dataclass


def new_config(shape: ArchitectureConfig, *, vocab: int, context: int, **ids: int | None) -> Any:
    """The family's own config for `shape`; `ids` are bos_id, eos_id and pad_id.

    Raises ConfigError or ModelError where the numbers do not fit (heads that do not divide the width, ...).
    """
    from luban.models import FAMILIES
    from luban.models.base import Shape

    if shape.model_type not in FAMILIES:
        what = f"no family '{shape.model_type}'; {nearest(shape.model_type, FAMILIES)}"
        raise ConfigError(what, where="setting 'architecture.model_type'", hint="luban models lists them")
    numbers: dict[str, Any] = {**dataclasses.asdict(shape), "context": shape.context or context, **ids}
    return FAMILIES[shape.model_type].config.sized(Shape(vocab=vocab, **numbers))


def check_fit(model: Any, tokenizer: Tokenizer, *, max_length: int) -> None:
    """Raise ConfigError if the tokenizer has ids, or rows have positions, that the model config does not.

    Nor is a model with a head for a task one that learns text.
    """
    from luban.models import FAMILIES
    from luban.models.headed import HeadConfig

    if isinstance(model, HeadConfig):
        what = "this model has a head for a task in the place of the one for words"
        raise ConfigError(what, where="setting 'model'", hint="luban classify goes on from it; else its base")
    if FAMILIES[model.model_type].kind == "vision":
        raise ConfigError(f"'{model.model_type}' models read images, not text", where="setting 'model'")
    if tokenizer.vocab_size > model.vocab:
        what = f"the tokenizer has {tokenizer.vocab_size} ids and the model {model.vocab}"
        raise ConfigError(what, where="setting 'model'", hint="use the model's own tokenizer")
    if max_length > model.context:
        what = f"rows of {max_length} tokens are longer than the model's window of {model.context}"
        raise ConfigError(what, where="setting 'loop.max_length'", hint=f"loop.max_length={model.context}")
