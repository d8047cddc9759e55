"""A run on this machine, before it is run: its speed from a measured product, its memory from the code itself.

With a time budget it also proposes a shape: it tries a ladder of models for a few steps each and takes the largest
that still sees enough tokens in the time.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from luban.models import FAMILIES, hf
from luban.training.cluster_plan import energy_mwh
from luban.training.clusters.cluster import Cluster
from luban.training.flops import adapted_flops_per_token, body_parameters, training_flops_per_token
from luban.training.saved import training_bytes
from luban.training.sizes import count
from luban.training.trial import random_batch, updater
from luban.training.weights import Adapt, hollow, weights_of

if TYPE_CHECKING:
    from luban.training.plan import Config

TOKENS_PER_WEIGHT = 2.0
"""Tokens a body weight must see for its size to pay in a run of minutes (benchmarks/README.md)."""

LADDER = tuple((layers, 64 * layers) for layers in range(3, 13))
"""One dial, as nanochat's depth: layers and width grow together."""

TRIAL_S = 2.0
"""Time to try a shape for, after a first step that is not counted."""


def forecast(
    model: Any, config: Config, cluster: Cluster, *, flop_per_s: float, adapt: Adapt | None = None
) -> dict[str, Any]:
    """What `config` takes for a model of this family config at a rate of matrix products of `flop_per_s`.

    With `adapt` only what that leaves to train is trained.
    """
    parameters = int(config.params) or count(model)
    tokens = int(config.tokens) or 20 * parameters
    per_token, rate = training_flops_per_token(model, config.row), flop_per_s * cluster.mfu
    trained = parameters
    if adapt is not None:
        trained = weights_of(hollow(model, adapt)).trained
        per_token = adapted_flops_per_token(model, config.row, trained=trained)
    memory = training_bytes(
        model,
        parameters,
        rows=config.per_device_train_batch_size,
        seq=config.row,
        compiled=config.compile and FAMILIES[model.model_type].compiles,
        recompute=config.gradient_checkpointing,
        accumulated=config.gradient_accumulation_steps > 1,
        adapt=adapt,
    )
    usable = machine_bytes() * cluster.usable
    seconds = per_token * tokens / rate
    return {
        "body_parameters": body_parameters(model),
        "parameters": parameters,
        "trained_parameters": trained,
        "tokens": tokens,
        "steps": max(1, tokens // (config.row_tokens * config.gradient_accumulation_steps)),
        "flops_per_token": per_token,
        "total_flops": per_token * tokens,
        "flop_per_s": rate,
        "tokens_per_second": rate / per_token,
        "seconds": seconds,
        "energy_mwh": energy_mwh(cluster, seconds),
        "cache_bytes_per_token": 2 * 4 * model.layers * model.kv_heads * model.head_dim,
        "memory_bytes": memory,
        "usable_bytes": usable,
        "fits": memory["total"] <= usable,
    }


def machine_bytes() -> int:
    """The memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def propose(config: Config, cluster: Cluster, *, seconds: float, place: torch.device) -> dict[str, Any]:
    """The largest shape of the ladder that sees `TOKENS_PER_WEIGHT` tokens per weight of its body in the time."""
    chosen, rate = None, 0.0
    for layers, dim in LADDER:
        shape = replace(config.architecture, layers=layers, dim=dim, heads=0)
        model = replace(config, architecture=shape).new_model()
        speed = _trial(model, config, place)
        if chosen is not None and speed * seconds < TOKENS_PER_WEIGHT * body_parameters(model):
            break
        chosen, rate = model, speed
    assert chosen is not None, "the ladder has rungs"
    told = forecast(chosen, replace(config, tokens=int(rate * seconds)), cluster, flop_per_s=1.0)
    needed = told["tokens"] / rate
    settings = {
        "architecture.layers": chosen.layers,
        "architecture.dim": chosen.dim,
        "loop.max_steps": told["steps"],
    }
    return told | {
        "flop_per_s": rate * told["flops_per_token"],
        "tokens_per_second": rate,
        "seconds": needed,
        "energy_mwh": energy_mwh(cluster, needed),
        "settings": [f"{name}={value}" for name, value in settings.items()],
    }


def _trial(model_config: Any, config: Config, place: torch.device) -> float:
    """Tokens per second of real training steps, eager, on random tokens."""
    tried = updater(hf.build(model_config, device=place))
    rows = config.per_device_train_batch_size
    batch = random_batch(config.vocab, rows=rows, length=config.row, device=place)
    tried.update([batch], learning_rate=0.0)
    begun, steps = time.perf_counter(), 0
    while time.perf_counter() - begun < TRIAL_S:
        tried.update([batch], learning_rate=0.0)
        steps += 1
    return steps * config.row_tokens / (time.perf_counter() - begun)
