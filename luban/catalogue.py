"""Stage `models`: the families Luban knows and the sizes that were published, or what one model is."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from luban.errors import ConfigError, nearest

SHAPE: dict[str, Any] = {"vocab": 4096, "context": 512, "dim": 256, "layers": 4}
"""A new model as `luban pretrain` makes it unless told otherwise, with the quickstart's vocabulary."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """List model families and published sizes, or tell of one model."""

    POSITIONAL: ClassVar[str] = "model"

    model: str = ""
    """A model folder, a published size (`llama3-8b`) or a family: tell of this one only; none lists all."""


def run(config: Config) -> dict[str, Any]:
    """Rows of facts: `families` for a new model of `shape`, and `sizes`; or the one `model`.

    A row holds name, family, kind, parameters (none where a text decides), context (tokens), cache_bytes_per_token
    (of keys and values, in the weights' type; none where it does not apply), positions and paper.
    """
    from luban.models import FAMILIES
    from luban.models.presets import PRESETS

    if config.model in PRESETS:
        return {"model": _published(config.model)}
    if config.model:
        return {"model": _row(config.model, _config_of(config.model))}
    return {
        "shape": SHAPE,
        "families": [_row(name, _config_of(name)) for name in FAMILIES],
        "sizes": [_published(name) for name in PRESETS],
    }


def show(results: dict[str, Any]) -> None:
    """The rows as tables."""
    if "model" in results:
        for name, value in results["model"].items():
            print(f"{name.replace('_', ' '):<22} {_exact(value)}")
        return
    shape = ", ".join(f"{name} {value}" for name, value in results["shape"].items())
    shown = ("name", "kind", "parameters", "positions", "paper")
    _table(f"families, each as a new model of {shape}", results["families"], shown)
    shown = ("name", "parameters", "cache_bytes_per_token", "context", "paper")
    _table("published sizes, in 16 bits", results["sizes"], shown)
    print("numbers in full, and with arXiv numbers: luban models --json; one model: luban models NAME")


def _table(title: str, rows: list[dict[str, Any]], shown: tuple[str, ...]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in shown:
        number = any(isinstance(row[name], int) for row in rows)
        heading = {"cache_bytes_per_token": "KV B/token"}.get(name, name)
        table.add_column(heading, justify="right" if number else "left", no_wrap=name != "paper")
    for row in rows:
        told = {**row, "paper": row["paper"].partition(", arXiv")[0].partition(" (arXiv")[0]}
        told["context"] = _exact(row["context"])
        table.add_row(*(_rounded(told[name]) for name in shown))
    Console().print(table)


def _exact(value: Any) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _rounded(value: Any) -> str:
    """Large numbers with three digits and a unit."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if isinstance(value, int) and value >= size:
            return f"{value / size:.3g} {unit}"
    return _exact(value)


def _config_of(name: str) -> Any:
    """The family config that `name` means; raises ConfigError with the nearest name if it means none."""
    from luban.models import FAMILIES, hf
    from luban.models.base import Shape
    from luban.models.presets import PRESETS

    if Path(name).is_dir():
        return hf.load_config(name)
    if name in FAMILIES:
        return FAMILIES[name].config.sized(Shape(model_type=name, bos_id=0, eos_id=1, pad_id=2, **SHAPE))
    advice = nearest(name, [*FAMILIES, *PRESETS])
    raise ConfigError(f"no model folder, family or size '{name}'; {advice}", where="setting 'model'")


def _published(name: str) -> dict[str, Any]:
    """A size's row, with the paper its preset names and weights as they were published."""
    from luban.models.presets import PRESETS

    row = _row(name, dataclasses.replace(PRESETS[name](), dtype="bfloat16"))
    return {**row, "paper": (PRESETS[name].__doc__ or "").partition(": ")[0].rstrip(".")}


def _row(name: str, config: Any) -> dict[str, Any]:
    """What is known of a model from its config alone; no weights are made."""
    import torch

    from luban.device import dtype_named
    from luban.models import FAMILIES
    from luban.models.base import CausalLM, parameter_count
    from luban.nn.cache import cache_bytes

    family = FAMILIES[config.model_type]
    with torch.device("meta"):
        model = family.model(config).to(dtype_named(config.dtype))
        cache = model.make_cache(batch=1, capacity=1) if isinstance(model, CausalLM) else []
    return {
        "name": name,
        "family": config.model_type,
        "kind": family.kind,
        "parameters": None if family.kind == "counted" else parameter_count(model),
        "context": config.context,
        "cache_bytes_per_token": cache_bytes(cache) or None,
        "positions": family.positions,
        "paper": family.paper,
    }
