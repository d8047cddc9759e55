"""Stage `group-heads`: a trained model with fewer key and value heads, to be trained on a little.

luban group-heads --model base/final --kv-heads 2 --out grouped
luban pretrain    --model grouped --data shards --tokenizer grouped --out recovered loop.max_steps=...
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge

from luban.folder import stage_folder


@dataclass(frozen=True, kw_only=True)
class Config:
    """Pool a model's key and value heads to their means (MHA to GQA or MQA)."""

    model: Path
    """Model folder."""
    kv_heads: Annotated[int, Ge(1)]
    """Key and value heads to keep; 1 makes multi-query attention."""
    out: Path
    """The folder to make."""


def run(config: Config) -> dict[str, Any]:
    """Make the folder; returns heads, parameters and cache bytes per token, before and after."""
    from luban.models import hf
    from luban.models.grouping import group_heads
    from luban.tokenizers.files import load
    from luban.training.checkpoint import write_model_folder

    with stage_folder(config.out, stage="group-heads", config=config, inputs=(config.model,)) as (
        folder,
        metrics,
    ):
        tokenizer = load(config.model)
        model = hf.load(config.model, dtype="auto")
        grouped = group_heads(model, config.kv_heads)
        write_model_folder(folder, grouped, tokenizer)
        metrics.update(before=_facts(model), after=_facts(grouped))
    return metrics


def show(results: dict[str, Any]) -> None:
    """Each number before and after."""
    for name, before in results["before"].items():
        print(f"{name.replace('_', ' '):<22} {before:>12,} -> {results['after'][name]:>12,}")


def _facts(model: Any) -> dict[str, int]:
    from luban.models.base import parameter_count
    from luban.nn.cache import cache_bytes

    per_token = cache_bytes(model.make_cache(batch=1, capacity=1))
    return {
        "kv_heads": model.config.kv_heads,
        "parameters": parameter_count(model),
        "cache_bytes_per_token": per_token,
    }
