"""A trained model with fewer key and value heads: neighbours pooled to their mean, a small cache for a small loss.

Right after the conversion the model is worse; some of the original training (5 % in the paper) makes up for it.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from luban.errors import ModelError

POOLED = re.compile(r"blocks\.\d+\.attention\.[kv]\.(weight|bias)")


def group_heads(model: Any, kv_heads: int) -> Any:
    """A new model in which each of `kv_heads` key heads is the mean of those it stands for.

    1 makes multi-query attention. All other weights are shared with `model`. Raises ModelError if the family has
    one key head per query head by nature, or has not a multiple of `kv_heads` to pool.

    Source: Ainslie et al. 2023, section 2.1 (arXiv:2305.13245).
    """
    config = model.config
    if "kv_heads" not in {field.name for field in dataclasses.fields(config)}:
        raise ModelError(f"'{config.model_type}' models have as many key heads as query heads")
    if config.kv_heads % kv_heads or kv_heads == config.kv_heads:
        fewer = [str(count) for count in range(1, config.kv_heads) if config.kv_heads % count == 0]
        hint = f"choose from: {', '.join(fewer)}" if fewer else "it has one key head already"
        raise ModelError(f"{config.kv_heads} key heads cannot become {kv_heads}", hint=hint)
    weights = {
        name: _pool(value, kv_heads, config.head_dim) if POOLED.fullmatch(name) else value
        for name, value in model.state_dict().items()
    }
    with torch.device("meta"):
        grouped = type(model)(dataclasses.replace(config, kv_heads=kv_heads))
    grouped.load_state_dict(weights, assign=True)
    if config.tied:
        grouped.tie()
    return grouped


def _pool(
    rows: Float[Tensor, "old_inner ..."], kv_heads: int, head_dim: int
) -> Float[Tensor, "new_inner ..."]:
    """The mean over each group of neighbouring heads, as query heads share them."""
    heads = rows.float().view(kv_heads, -1, head_dim, *rows.shape[1:])  # [kv_heads, group, head_dim, ...]
    return heads.mean(1).flatten(0, 1).to(rows.dtype)
