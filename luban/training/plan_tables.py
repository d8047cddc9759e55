"""A forecast as tables for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

UNITS = {
    "flops": " FLOP",
    "flops_per_token": " FLOP",
    "flop_per_s": " FLOP/s",
    "seconds": " s",
    "mwh": " MWh",
    "bytes": " B",
    "bytes_per_token": " B",
}

SHARES = ("mfu", "bubble")


def show(results: dict[str, Any]) -> None:
    """Print the run, each device's memory and, on a cluster, the layout, its step and the next best ones."""
    console = Console()
    console.print(_facts(results))
    console.print(_memory(results))
    if "layout" in results:
        console.print(_layouts(results))
        met = ", ".join(f"{axis} {nodes}" for axis, nodes in results["nodes_met"].items())
        console.print(f"nodes that one group spans: {met}", highlight=False)
        console.print(_step(results["step"]))
    for warning in results.get("warnings", []):
        console.print(f"note: {warning}", soft_wrap=True, highlight=False)
    if "settings" in results:
        console.print(
            f"use: {_command(results)} {' '.join(results['settings'])}", soft_wrap=True, highlight=False
        )


def _command(results: dict[str, Any]) -> str:
    if "layout" not in results:
        return "luban pretrain"
    each = results["devices"] // results["nodes"]
    return f"torchrun --nnodes {results['nodes']} --nproc-per-node {each} -m luban pretrain"


def _facts(results: dict[str, Any]) -> Table:
    table = Table("what", "value", title="plan")
    for name, value in results.items():
        if not isinstance(value, dict | list):
            table.add_row(name.replace("_", " "), _shown(name, value))
    return table


def _shown(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if name in SHARES:
        return f"{value:.1%}"
    unit = next((unit for end, unit in UNITS.items() if name.endswith(end)), "")
    return (f"{value:,}" if isinstance(value, int) else f"{value:,.4g}") + unit


def _memory(results: dict[str, Any]) -> Table:
    usable = results["usable_bytes"] / 1e6
    table = Table("memory of one device", "MB", title=f"usable: {usable:,.0f} MB")
    for name, size in results["memory_bytes"].items():
        if size:
            table.add_row(name, f"{size / 1e6:,.0f}")
    return table


def _layouts(results: dict[str, Any]) -> Table:
    best = results["layout"] | {name: results[name] for name in ("step_seconds", "tokens_per_second")}
    best["memory_bytes"] = results["memory_bytes"]["total"]
    table = Table("dp", "tp", "pp", "zero", "rows x passes", "chunks", "again", "s/step", "tokens/s", "GB")
    for one in [best, *results["alternatives"]]:
        table.add_row(
            *(str(one[name]) for name in ("dp", "tp", "pp", "zero")),
            f"{one['micro_batch']} x {one['micro_batches']}",
            str(one["chunks"]),
            _shown("recompute", one["recompute"]),
            f"{one['step_seconds']:.4g}",
            f"{one['tokens_per_second']:,.0f}",
            f"{one['memory_bytes'] / 1e9:.3g}",
        )
    table.title = "the quickest layout that fits, and the next" if results["fits"] else "the smallest layouts"
    return table


def _step(step: dict[str, float]) -> Table:
    table = Table("time of a step", "s", "share")
    total = sum(step.values())
    for name, seconds in step.items():
        if seconds:
            table.add_row(name, f"{seconds:.3g}", f"{seconds / total:.1%}")
    return table
