"""Device, threads, seeds and memory reuse: decided once at a stage's start, then passed on.

A stage's `Config` may inherit from `DeviceConfig` (flat `--device`, `--threads`), so importing this page must
not import torch: `luban STAGE --help` has to answer at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from luban.errors import ConfigError, MachineError, nearest
from luban.machine import tuned

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class DeviceConfig:
    """Where a stage computes."""

    device: str = "auto"
    """`auto` (an accelerator if there is one, else the CPU), `cpu`, `cuda`, `cuda:1`, `mps`."""
    threads: Annotated[int, Ge(0)] = 0
    """CPU threads for one operation; 0 means all that this process may run on, or its share under torchrun."""


def start(config: DeviceConfig, *, seed: int | None) -> torch.device:
    """Fix threads, allocator and seeds of this process; return the device to compute on.

    What `config` leaves open is as `luban doctor --tune` found it fastest, if it was run; tuned threads are for a
    process that has the machine to itself, so not for one of torchrun's.
    With `seed` None the random streams are left as they are. Raises MachineError if the device is not there.
    """
    settings = tuned()
    if settings.reuse_memory:
        reuse_memory()
    if config.threads or "LOCAL_WORLD_SIZE" in os.environ:
        use_cpus(config.threads or threads_of_this_process(), pin=False)
    else:
        use_cpus(settings.threads, pin=settings.pin)
    if seed is not None:
        seed_all(seed)
    return pick(config.device)


def use_cpus(threads: int, *, pin: bool) -> None:
    """Let one operation run on `threads` threads (0: one per usable CPU), pinned to as many CPUs or to all."""
    import torch

    torch.set_num_threads(min(threads, usable_cpus()) if pin else threads or usable_cpus())
    if not pin or not hasattr(os, "sched_setaffinity"):
        return
    chosen = sorted(os.sched_getaffinity(0))[: threads or None]
    for thread in Path("/proc/self/task").iterdir():  # those that torch has started as well
        with contextlib.suppress(ProcessLookupError):  # one that has ended since
            os.sched_setaffinity(int(thread.name), chosen)


def pick(name: str) -> torch.device:
    """The torch device called `name`; `auto` prefers an accelerator."""
    import torch

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
    import torch

    return getattr(torch, name)


def usable_cpus() -> int:
    """CPUs this process may run on (its affinity, not the machine's count)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_of_this_process() -> int:
    """Its share of the usable CPUs: torchrun says how many processes of a run are on this machine."""
    return max(1, usable_cpus() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def seed_copy(seed: int, place: int) -> None:
    """Give the copy of a model at `place` random numbers of its own; those of place 0 go on as they are."""
    import numpy as np

    if place:
        seed_all(int(np.random.SeedSequence((seed, place)).generate_state(1)[0]))


def seed_all(seed: int) -> None:
    """Seed Python, numpy and torch on every device."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """The states of all generators that `seed_all` seeds, as tensors and plain values, for an exact resume."""
    import numpy as np
    import torch

    kind, words, *rest = np.random.get_state()
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (kind, np.asarray(words).tolist(), *rest),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Continue all generators where `random_state` was taken."""
    import numpy as np
    import torch

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
