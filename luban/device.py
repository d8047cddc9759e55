"""Device, threads, seeds and memory reuse: decided once at a stage's start, then passed on."""

from __future__ import annotations

import ctypes
import os
import random
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge

from luban.errors import ConfigError, MachineError, nearest

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class DeviceConfig:
    """Where a stage computes."""

    device: str = "auto"
    """`auto` (an accelerator if there is one, else the CPU), `cpu`, `cuda`, `cuda:1`, `mps`."""
    threads: Annotated[int, Ge(0)] = 0
    """CPU threads for one operation; 0 means as many as this process may run on."""


def start(config: DeviceConfig, *, seed: int) -> torch.device:
    """Fix threads, allocator and seeds of this process; return the device to compute on.

    Raises MachineError if the named device is not there.
    """
    reuse_memory()
    torch.set_num_threads(config.threads or usable_cpus())
    seed_all(seed)
    return pick(config.device)


def pick(name: str) -> torch.device:
    """The torch device called `name`; `auto` prefers an accelerator."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "auto":
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(
            f"unknown device '{name}'; {nearest(name, ['auto', 'cpu', 'cuda', 'mps'])}"
        ) from None
    if device.type != "cpu" and (accelerator is None or accelerator.type != device.type):
        raise MachineError(f"device '{name}' is not available here", hint="--device cpu, or `luban doctor`")
    return device


def dtype_named(name: str) -> torch.dtype:
    """The torch dtype called `name`; raises ConfigError with the choices."""
    if name not in DTYPES:
        raise ConfigError(f"unknown dtype '{name}'; {nearest(name, DTYPES)}")
    return DTYPES[name]


def usable_cpus() -> int:
    """CPUs this process may run on (its affinity, not the machine's count)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def seed_all(seed: int) -> None:
    """Seed Python, numpy and torch on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """The states of all generators that `seed_all` seeds, for an exact resume."""
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def reuse_memory() -> None:
    """Tell glibc to keep freed blocks instead of giving their pages back to the kernel.

    A training step frees and takes the same large buffers again; by default each one is mapped anew and every
    page faulted in, which costs more than some of the arithmetic. No effect where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    trim_threshold, top_pad, mmap_threshold, mmap_max = -1, -2, -3, -4
    gigabyte = 1 << 30
    mallopt(mmap_max, 0)
    mallopt(mmap_threshold, gigabyte)
    mallopt(trim_threshold, 2 * gigabyte - 1)
    mallopt(top_pad, 64 << 20)
