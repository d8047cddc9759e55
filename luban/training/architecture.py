"""The shape of a new model as a user states it, and the family config it becomes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge

from luban.errors import ConfigError
from luban.tokenizers.base import Tokenizer


@dataclass(frozen=True, kw_only=True)
class ArchitectureConfig:
    """The shape of a new model; `luban plan` proposes one for a time budget."""

    model_type: Literal["llama", "qwen2", "qwen3", "gpt2"] = "llama"
    """Family, by its Hugging Face name."""
    layers: Annotated[int, Ge(1)] = 4
    """Blocks."""
    dim: Annotated[int, Ge(8)] = 256
    """Width of the residual stream."""
    heads: Annotated[int, Ge(0)] = 0
    """Query heads; 0 means one per 64 of `dim`."""
    kv_heads: Annotated[int, Ge(0)] = 0
    """Key and value heads (GQA); 0 means as many as query heads."""
    hidden: Annotated[int, Ge(0)] = 0
    """Width of the MLP; 0 means 8/3 of `dim` rounded up to 32 (4 times `dim` for gpt2)."""
    tied: bool = True
    """Share the embedding with the head."""
    context: Annotated[int, Ge(0)] = 0
    """Window the model is declared for; 0 means `loop.max_length`."""


def new_config(shape: ArchitectureConfig, *, vocab: int, context: int, **ids: int | None) -> Any:
    """The family's own config for `shape`; `ids` are bos_id, eos_id and pad_id.

    Raises ConfigError or ModelError where the numbers do not fit (heads that do not divide the width, ...).
    """
    from luban.models import FAMILIES

    heads = shape.heads or max(1, shape.dim // 64)
    numbers: dict[str, Any] = {
        "vocab": vocab,
        "context": shape.context or context,
        "dim": shape.dim,
        "layers": shape.layers,
        "heads": heads,
        "hidden": shape.hidden or _hidden(shape),
        "tied": shape.tied,
        **ids,
    }
    if shape.model_type != "gpt2":
        numbers |= {"kv_heads": shape.kv_heads or heads, "model_type": shape.model_type}
        numbers |= {"qkv_bias": shape.model_type == "qwen2", "qk_norm": shape.model_type == "qwen3"}
    return FAMILIES[shape.model_type].config(**numbers)


def check_fit(model: Any, tokenizer: Tokenizer, *, max_length: int) -> None:
    """Raise ConfigError if the tokenizer has ids, or rows have positions, that the model config does not."""
    if tokenizer.vocab_size > model.vocab:
        what = f"the tokenizer has {tokenizer.vocab_size} ids and the model {model.vocab}"
        raise ConfigError(what, where="setting 'model'", hint="use the model's own tokenizer")
    if max_length > model.context:
        what = f"rows of {max_length} tokens are longer than the model's window of {model.context}"
        raise ConfigError(what, where="setting 'loop.max_length'", hint=f"loop.max_length={model.context}")


def _hidden(shape: ArchitectureConfig) -> int:
    return 4 * shape.dim if shape.model_type == "gpt2" else -(-shape.dim * 8 // 3 // 32) * 32
