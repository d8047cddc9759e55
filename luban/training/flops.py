"""How much arithmetic a decoder costs, counted from its config.

Source: Kaplan et al. 2020 (arXiv:2001.08361), table 1: 2 FLOPs per weight and token forward, twice that
backward; attention scores and sums on top, halved because a causal query sees half the row on average.
"""

from __future__ import annotations

from typing import Any


def matrix_parameters(config: Any) -> int:
    """Weights that multiply every token: all blocks' matrices and the head (the embedding is only looked up)."""
    return body_parameters(config) + config.vocab * config.dim


def body_parameters(config: Any) -> int:
    """The matrices of all blocks, without embedding and head."""
    attention = 2 * config.dim * config.head_dim * (config.heads + config.kv_heads)
    matrices = 2 if config.model_type == "gpt2" else 3
    return config.layers * (attention + matrices * config.dim * config.hidden)


def training_flops_per_token(config: Any, context: int) -> float:
    """FLOPs of forward and backward for one token in rows of `context` tokens."""
    attention = 2 * config.layers * config.heads * config.head_dim * context
    return 3.0 * (2 * matrix_parameters(config) + attention)
