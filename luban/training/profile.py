"""Stage `profile`: where the time and the memory of a training step go.

Three looks at the same step on random tokens: phases by the clock, kinds of modules by hooks, operators by PyTorch's
profiler. They are separate runs, because each way of looking slows what it looks at.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from luban.device import DeviceConfig
from luban.errors import ConfigError
from luban.training.architecture import ArchitectureConfig, new_config

if TYPE_CHECKING:
    import torch

TOP_OPERATORS = 12


@dataclass(frozen=True, kw_only=True)
class Config(DeviceConfig):
    """Take a training step apart."""

    model: Path | None = None
    """Profile this model folder instead of a new model of `architecture`."""
    architecture: ArchitectureConfig = field(default_factory=ArchitectureConfig)
    vocab: Annotated[int, Ge(2)] = 4096
    """Vocabulary of a new model."""
    per_device_train_batch_size: Annotated[int, Ge(1)] = 16
    """Rows in one forward pass."""
    max_length: Annotated[int, Ge(4)] = 256
    """Tokens per row."""
    steps: Annotated[int, Ge(1)] = 5
    """Steps to take the time of, after two that are not counted."""
    compile: bool = False
    """Compile the model for the phases; modules and operators are always looked at uncompiled."""
    trace: Path | None = None
    """Also write one step as a trace file, for chrome://tracing or Perfetto."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of weights and tokens."""


def run(config: Config) -> dict[str, Any]:
    """Seconds of a step by phase, module kind and operator, speed, and bytes by part."""
    from luban import device
    from luban.models import FAMILIES, hf
    from luban.nn.linear import measure_flops
    from luban.training.anatomy import memory, module_seconds, operators, phases
    from luban.training.flops import training_flops_per_token
    from luban.training.step import compiled_hidden
    from luban.training.trial import random_batch

    shape = hf.load_config(config.model) if config.model else _new(config)
    if FAMILIES[shape.model_type].kind != "causal":
        what = f"a profile is of next-token training, and '{shape.model_type}' is not trained so"
        raise ConfigError(what, where="setting 'model'")
    place = device.start(config, seed=config.seed)
    model: Any = (hf.load(config.model) if config.model else hf.build(shape)).to(place)
    rows, length = config.per_device_train_batch_size, config.max_length

    def batch() -> Any:
        return random_batch(shape.vocab, rows=rows, length=length, device=place)

    hidden = compiled_hidden(model) if config.compile else model.hidden
    spent = phases(model, hidden, batch, steps=config.steps)
    speed = rows * length / spent["step"]
    rate = training_flops_per_token(shape, length) * speed
    gemm, torch_gemm = measure_flops(place), _torch_rate(place)
    return {
        "tokens_per_second": speed,
        "flop_per_s": rate,
        "matmul_flop_per_s": gemm,
        "mfu": rate / gemm,
        "share_of_torch_matmul": rate / torch_gemm,
        "step_seconds": spent.pop("step"),
        "phases": spent,
        "modules": module_seconds(model, batch, steps=config.steps),
        "memory_bytes": memory(model, batch()),
        "operators": operators(model, batch(), top=TOP_OPERATORS, trace=config.trace),
    }


def show(results: dict[str, Any]) -> None:
    """Print speed, phases, modules, memory and operators as tables."""
    from rich.console import Console

    console = Console()
    step = results["step_seconds"]
    console.print(
        f"{results['tokens_per_second']:,.0f} tokens/s, {step * 1e3:,.1f} ms a step,"
        f" {results['mfu']:.0%} of the matrix-product rate ({results['matmul_flop_per_s'] / 1e9:,.0f} GFLOP/s),"
        f" {results['share_of_torch_matmul']:.0%} of torch.mm's"
    )
    console.print(_table("phase", results["phases"], step))
    modules = {name: sum(seconds for seconds in both.values()) for name, both in results["modules"].items()}
    console.print(_table("module, both ways", modules, step))
    operators = {row["name"]: row["seconds"] for row in results["operators"]}
    console.print(_table("operator, its own time", operators, sum(operators.values())))
    parts = results["memory_bytes"]
    console.print(_table("memory", parts, parts["peak"], unit="MB", scale=1e-6))


def _table(
    title: str, rows: Mapping[str, float], whole: float, *, unit: str = "ms", scale: float = 1e3
) -> Any:
    from rich.table import Table

    table = Table(title, unit, "share")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, value in rows.items():
        table.add_row(name, f"{value * scale:,.1f}", f"{value / whole:.1%}")
    return table


def _new(config: Config) -> Any:
    """The family's config; special tokens change no number of a profile."""
    shape = dataclasses.replace(config.architecture, context=config.architecture.context or config.max_length)
    return new_config(shape, vocab=config.vocab, context=config.max_length, eos_id=0)


def _torch_rate(place: torch.device, *, size: int = 1024, runs: int = 5) -> float:
    """FLOP/s of `torch.mm`, which is MKL's on a CPU: what a plain PyTorch program is measured against."""
    import time

    import torch

    a, b = torch.rand(size, size, device=place), torch.rand(size, size, device=place)
    best = float("inf")
    for _ in range(runs):
        begun = time.perf_counter()
        (a @ b)[0, 0].item()
        best = min(best, time.perf_counter() - begun)
    return 2 * size**3 / best
