"""How much arithmetic a model costs, counted from its matrices.

Source: Kaplan et al. 2020 (arXiv:2001.08361), table 1: 2 FLOPs per weight and token forward, twice that
backward; attention scores and sums on top, halved because a causal query sees half the row on average.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from luban.models import FAMILIES
from luban.nn.moe import MoE


def matrix_parameters(config: Any) -> int:
    """Weights that multiply every token: all blocks' matrices and the head (embeddings are only looked up)."""
    return sum(_body_and_head(config))


def body_parameters(config: Any) -> int:
    """The matrices of all blocks, without embeddings and head."""
    return _body_and_head(config)[0]


def training_flops_per_token(config: Any, context: int) -> float:
    """FLOPs of forward and backward for one token in rows of `context` tokens."""
    attention = 2 * config.layers * config.heads * config.head_dim * context
    return 3.0 * (2 * matrix_parameters(config) + attention)


def adapted_flops_per_token(config: Any, context: int, *, trained: int) -> float:
    """The same where only `trained` weights are: all others get no gradient, which is a third of their work."""
    whole = training_flops_per_token(config, context)
    return min(whole, whole - 2.0 * matrix_parameters(config) + 6.0 * trained)


def _body_and_head(config: Any) -> tuple[int, int]:
    """Weights of the matrices a token meets, counted on a model without memory."""
    with torch.device("meta"):
        model: Any = FAMILIES[config.model_type].model(config)
    embeddings = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    # An encoder may have no head.
    heads = [part.weight for name, part in model.named_children() if name == "head"]
    apart = {id(weight) for weight in [*embeddings, *heads]}
    body = sum(weight.numel() for weight in model.parameters() if weight.ndim > 1 and id(weight) not in apart)
    idle = sum(module.idle_parameters for module in model.modules() if isinstance(module, MoE))
    return body - idle, sum(weight.numel() for weight in heads)
