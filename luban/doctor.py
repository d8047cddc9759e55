"""Stage `doctor`: what works on this machine and why not, and how fast it really is."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luban import __version__
from luban.device import DeviceConfig

if TYPE_CHECKING:
    import torch

EXTRAS = {
    "zstandard": ("data", "reading and writing .zst files"),
    "huggingface_hub": ("hub", "luban fetch hf:org/name"),
    "sacrebleu": ("eval", "BLEU in luban translate"),
    "gguf": ("hub", "luban fetch smollm2, and .gguf files"),
}
"""Optional packages: the extra that brings each, and what it is for."""


@dataclass(frozen=True, kw_only=True)
class Config(DeviceConfig):
    """Look at this machine."""


def run(config: Config) -> dict[str, Any]:
    """Versions, resources, measured speeds, and for each optional part whether it works."""
    import torch

    from luban import device
    from luban.nn.linear import measure_flops

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
        "works": _works(),
    }


def show(results: dict[str, Any]) -> None:
    """Print the findings as two tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    machine = Table("", "", title="this machine", show_header=False)
    for name, value in results.items():
        if name != "works":
            machine.add_row(name.replace("_per_s", "/s").replace("_", " "), str(value))
    console.print(machine)
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


def _works() -> dict[str, str | None]:
    """For each part: None if it works, else the reason and the remedy."""
    compiler = any(shutil.which(name) for name in ("g++", "clang++", "c++"))
    found: dict[str, str | None] = {
        "training, chat, eval": None,
        "compiled training": None
        if compiler
        else "no C++ compiler; install g++ (training runs eagerly without)",
    }
    for package, (extra, use) in EXTRAS.items():
        missing = importlib.util.find_spec(package) is None
        found[use] = f"{package} is not installed; pip install 'luban[{extra}]'" if missing else None
    npm = shutil.which("npm")
    found["luban fetch gpt2-vocab"] = None if npm else "npm is not installed"
    return found


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
