"""What `luban doctor --tune` measured to be fastest on this machine, in a file of the user's.

`device.start` reads it where a stage's own settings leave the choice open. The file says which processor and which
PyTorch it was measured with; on any other, or damaged, it is left alone and one line on stderr says so.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luban.config import build, to_dict
from luban.errors import LubanError
from luban.folder import home, read_json, write_json


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The winners. A default is what happens without a measurement."""

    threads: int = 0
    """Threads for one operation; 0 means one per usable CPU."""
    pin: bool = False
    """Keep threads on the first `threads` CPUs that the process may use."""
    reuse_memory: bool = True
    """Tell the C library to keep freed memory."""
    chunk_tokens: int = 0
    """Tokens whose logits exist at a time; 0 leaves it to the loss."""
    precision: str = "float32"
    """Numbers of the forward pass that were fastest; advice for `loop.precision`."""
    compile_gain: float = 0.0
    """Speed of a compiled step over an eager one; 0 was not measured. Advice for `loop.compile`."""
    compile_s: float = 0.0
    """Seconds that compiling took."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a measurement is true of."""

    processor: str
    cpus: int
    torch: str


@dataclass(frozen=True, kw_only=True)
class _File:
    machine: Machine
    settings: Tuned


def here() -> Machine:
    """This machine."""
    return Machine(
        processor=_processor(), cpus=os.cpu_count() or 1, torch=importlib.metadata.version("torch")
    )


def settings_file() -> Path:
    """Where the winners are kept: `machine.json` in $LUBAN_HOME, else in ~/.cache/luban."""
    return home() / "machine.json"


@functools.cache
def tuned() -> Tuned:
    """The winners of this machine's last tuning, or the defaults; says on stderr why a file is not used."""
    path = settings_file()
    if not path.is_file():
        return Tuned()
    try:
        content: Any = read_json(path)
        found = build(_File, content, where=str(path)) if isinstance(content, dict) else None
    except LubanError as error:
        return _unused(path, error.what)
    if found is None:
        return _unused(path, "not a mapping")
    differing = [
        field.name
        for field in dataclasses.fields(Machine)
        if getattr(found.machine, field.name) != getattr(here(), field.name)
    ]
    return _unused(path, f"measured with another {' and '.join(differing)}") if differing else found.settings


def keep(settings: Tuned) -> Path:
    """Write the winners of this machine; the file is whole or not there. Returns its path."""
    path = settings_file()
    write_json(path, to_dict(_File(machine=here(), settings=settings)))
    tuned.cache_clear()
    return path


def _unused(path: Path, why: str) -> Tuned:
    print(f"{path}: not used: {why}; `luban doctor --tune` measures anew", file=sys.stderr)
    return Tuned()


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "flags"))]
    return (
        f"{named[0]} {'avx512' if 'avx512f' in named[1] else 'avx2' if 'avx2' in named[1] else ''}".strip()
        if len(named) > 1
        else platform.processor() or platform.machine()
    )
