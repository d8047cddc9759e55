"""Stage `plan`: parameters, FLOPs, memory by part and time of a run, before running it.

With `--minutes` it also proposes a shape: it tries a ladder of models for a few steps each and takes the largest
that still sees enough tokens in the time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt

from luban.device import DeviceConfig
from luban.errors import ConfigError
from luban.training.architecture import ArchitectureConfig, new_config
from luban.training.config import LoopConfig

if TYPE_CHECKING:
    import torch

SHARE_OF_PEAK = 0.45
"""Share of the matrix-product rate that a step of a small model reaches on a CPU (benchmarks/README.md)."""

TOKENS_PER_WEIGHT = 2.0
"""Tokens a body weight must see for its size to pay in a run of minutes (benchmarks/README.md)."""

LADDER = tuple((layers, 64 * layers) for layers in range(3, 13))
"""One dial, as nanochat's depth: layers and width grow together."""

TRIAL_S = 2.0
"""Time to try a shape for, after a first step that is not counted."""


@dataclass(frozen=True, kw_only=True)
class Config(DeviceConfig):
    """Forecast a training run."""

    model: Path | None = None
    """Plan for this model folder (only its config.json is read) instead of `architecture`."""
    architecture: ArchitectureConfig = field(default_factory=ArchitectureConfig)
    vocab: Annotated[int, Ge(2)] = 4096
    """Vocabulary of a new model."""
    per_device_train_batch_size: Annotated[int, Ge(1)] = LoopConfig.per_device_train_batch_size
    """Rows in one forward pass."""
    gradient_accumulation_steps: Annotated[int, Ge(1)] = LoopConfig.gradient_accumulation_steps
    """Forward passes per optimizer step."""
    max_length: Annotated[int, Ge(2)] = LoopConfig.max_length
    """Tokens per row."""
    tokens: Annotated[int, Ge(0)] = 0
    """Training tokens; 0 takes 20 per parameter (Hoffmann et al. 2022, arXiv:2203.15556)."""
    minutes: Annotated[float, Gt(0)] | None = None
    """Time budget: propose the architecture and the number of steps that fill it."""

    @property
    def row_tokens(self) -> int:
        """Tokens in one forward pass."""
        return self.per_device_train_batch_size * self.max_length


def run(config: Config) -> dict[str, Any]:
    """The forecast as a dict of numbers: sizes in bytes, time in seconds, rates in FLOP/s."""
    from luban import device
    from luban.models import FAMILIES, hf
    from luban.nn.linear import measure_flops

    model_type = hf.load_config(config.model).model_type if config.model else config.architecture.model_type
    if model_type in FAMILIES and FAMILIES[model_type].kind == "counted":
        raise ConfigError(f"a model of the family '{model_type}' is counted, not trained: nothing to plan")
    if config.minutes and model_type in FAMILIES and FAMILIES[model_type].kind != "causal":
        what = f"a shape for a time is found by trials of next-token training, and '{model_type}' is not trained so"
        raise ConfigError(
            what, where="setting 'minutes'", hint="architecture.layers=..., architecture.dim=..."
        )
    place = device.start(config, seed=0)
    if config.minutes:
        return _propose(config, config.minutes * 60, place)
    return _forecast(config.architecture, config, measure_flops(place) * SHARE_OF_PEAK)


def show(results: dict[str, Any]) -> None:
    """Print the forecast as two tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table("what", "value", title="plan")
    units = {"flops": "FLOP", "flop_per_s": "FLOP/s", "seconds": "s"}
    for name, value in results.items():
        if not isinstance(value, dict | list):
            unit = next((unit for end, unit in units.items() if name.endswith(end)), "")
            table.add_row(
                name.replace("_", " "), f"{value:,.4g} {unit}" if isinstance(value, float) else f"{value:,}"
            )
    console.print(table)
    memory = Table("memory", "MB", title="one device, float32")
    for name, size in results["memory_bytes"].items():
        memory.add_row(name, f"{size / 1e6:,.0f}")
    console.print(memory)
    if "settings" in results:
        console.print("use: luban pretrain " + " ".join(results["settings"]), soft_wrap=True)


def _new_config(shape: ArchitectureConfig, config: Config) -> Any:
    """The family's config; special tokens, which a plan does not know, change no number of it."""
    return new_config(shape, vocab=config.vocab, context=config.max_length, eos_id=0)


def _forecast(shape: ArchitectureConfig, config: Config, rate: float) -> dict[str, Any]:
    import torch

    from luban.models import FAMILIES, hf
    from luban.models.base import parameter_count
    from luban.training.flops import body_parameters, training_flops_per_token

    model = _new_config(shape, config)
    if config.model is not None:
        model = hf.load_config(config.model)
    with torch.device("meta"):
        parameters = parameter_count(FAMILIES[model.model_type].model(model))
    tokens = config.tokens or 20 * parameters
    per_token = training_flops_per_token(model, config.max_length)
    return {
        "body_parameters": body_parameters(model),
        "parameters": parameters,
        "tokens": tokens,
        "steps": max(1, tokens // (config.row_tokens * config.gradient_accumulation_steps)),
        "flops_per_token": per_token,
        "total_flops": per_token * tokens,
        "flop_per_s": rate,
        "tokens_per_second": rate / per_token,
        "seconds": per_token * tokens / rate,
        "memory_bytes": memory_bytes(model, parameters, config.row_tokens),
    }


def _propose(config: Config, seconds: float, place: torch.device) -> dict[str, Any]:
    """The largest shape of the ladder that sees `TOKENS_PER_WEIGHT` tokens per weight of its body in the time."""
    best: dict[str, Any] = {}
    for layers, dim in LADDER:
        shape = replace(config.architecture, layers=layers, dim=dim, heads=0)
        rate = _trial(shape, config, place)
        forecast = _forecast(shape, replace(config, tokens=int(rate * seconds)), rate=1.0)
        if best and forecast["tokens"] < TOKENS_PER_WEIGHT * forecast["body_parameters"]:
            break
        best = forecast | {
            "flop_per_s": rate * forecast["flops_per_token"],
            "tokens_per_second": rate,
            "seconds": forecast["tokens"] / rate,
        }
        settings = {"architecture.layers": layers, "architecture.dim": dim, "loop.max_steps": best["steps"]}
        best["settings"] = [f"{name}={value}" for name, value in settings.items()]
    return best


def _trial(shape: ArchitectureConfig, config: Config, place: torch.device) -> float:
    """Tokens per second of real training steps, eager, on random tokens."""
    import torch

    from luban.data.batch import Batch
    from luban.models import hf
    from luban.training.config import OptimizerConfig
    from luban.training.optim import adamw
    from luban.training.step import Accumulated, Updater, next_token

    model = hf.build(_new_config(shape, config), device=place)
    updater = Updater(adamw(model, OptimizerConfig()), Accumulated(model, next_token()), max_grad_norm=1.0)
    tokens = torch.randint(0, config.vocab, (config.per_device_train_batch_size, config.max_length + 1))
    documents = (torch.arange(config.max_length) * 3 // config.max_length).expand_as(tokens[:, 1:])
    batch = Batch(
        tokens=tokens[:, :-1],
        targets=tokens[:, 1:].contiguous(),
        positions=torch.arange(config.max_length).expand_as(tokens[:, 1:]),
        documents=documents,
        ids=[],
        packed=True,
    ).to(place)
    updater.update([batch], learning_rate=0.0)
    begun, steps = time.perf_counter(), 0
    while time.perf_counter() - begun < TRIAL_S:
        updater.update([batch], learning_rate=0.0)
        steps += 1
    return steps * config.row_tokens / (time.perf_counter() - begun)


def memory_bytes(model: Any, parameters: int, row_tokens: int) -> dict[str, int]:
    """Bytes of one device in float32 training, by part, for `row_tokens` tokens in a forward pass.

    Activations: what backward needs of each block (norm inputs and outputs, q, k, v, attention's output and the
    MLP's products); logits: two chunks of them, as the loss never holds more.
    """
    from luban.training.losses import CHUNK_TOKENS

    per_token = 6 * model.dim + 2 * model.kv_heads * model.head_dim + 4 * model.hidden
    parts = {
        "weights": 4 * parameters,
        "gradients": 4 * parameters,
        "optimizer": 8 * parameters,
        "activations": 4 * row_tokens * model.layers * per_token,
        "logits": 2 * 4 * min(CHUNK_TOKENS, row_tokens) * model.vocab,
    }
    return {**parts, "total": sum(parts.values())}
