"""`load(source)`: a C++ file as a library of functions, compiled once per machine and kept in the user's cache.

The cache key holds the source, every shared header, the flags, the compiler and the processor's features, so
an edited file, another compiler or another machine never meets a stale library. Whoever comes second waits for
the first (a file lock) and finds the result.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from luban.errors import MachineError
from luban.folder import atomic_file, home
from luban.native.unicode import tables_header

FLAGS = ("-std=c++17", "-O3", "-shared", "-fPIC", "-fvisibility=hidden", "-march=native", "-Wall", "-Wextra")
HEADERS = Path(__file__).parent
TABLES = "unicode_tables.hpp"
"""Written beside the libraries, from Python's own Unicode data."""


@functools.cache
def load(source: Path) -> ctypes.CDLL:
    """The library made of the C++ file `source`; its functions are those declared `LUBAN_EXPORT`.

    Raises MachineError without a compiler, or with the compiler's own message if it refuses the file.
    """
    compiler = find_compiler()
    place = cache() / f"{source.stem}-{_key(source, compiler)[:16]}.so"
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        with _locked(place.with_suffix(".lock")):
            if not place.is_file():
                _compile(source, place, compiler)
    return ctypes.CDLL(str(place))


class Pointer(ctypes.c_void_p):
    """An address that keeps its array alive, so that a temporary may be passed."""

    array: np.ndarray


def pointer(array: np.ndarray, dtype: np.dtype | type) -> Pointer:
    """The address of `array`'s first element, for a C++ function; it must be contiguous and of `dtype`."""
    assert array.dtype == dtype, f"{array.dtype}, not {dtype}"
    assert array.flags.c_contiguous
    address = Pointer(array.ctypes.data)
    address.array = array
    return address


def find_compiler() -> tuple[str, ...]:
    """The C++ compiler as command words: $CXX, g++, clang++ or c++, else the one in the `ziglang` wheel."""
    for name in (os.environ.get("CXX"), "g++", "clang++", "c++"):
        if name and shutil.which(name):
            return (name,)
    if importlib.util.find_spec("ziglang"):
        return (sys.executable, "-m", "ziglang", "c++")
    raise MachineError(
        "no C++ compiler here, and this stage's inner loops are C++",
        hint="apt install g++, xcode-select --install, or pip install ziglang (no root needed)",
    )


def cache() -> Path:
    """Where compiled libraries live: `native` in $LUBAN_HOME, else in ~/.cache/luban."""
    return home() / "native"


def _compile(source: Path, place: Path, compiler: tuple[str, ...]) -> None:
    tables = (
        place.parent / f"include-{hashlib.sha256(tables_header.__code__.co_code).hexdigest()[:8]}" / TABLES
    )
    if not tables.is_file():
        with atomic_file(tables) as work:
            work.write_text(tables_header(), encoding="ascii")
    with atomic_file(place) as work:
        paths = ("-I", str(HEADERS), "-I", str(tables.parent))
        command = [*compiler, *FLAGS, *paths, str(source), "-o", str(work)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise MachineError(f"{compiler[0]} refused it:\n{done.stderr.strip()[:2000]}", where=source)


def _key(source: Path, compiler: tuple[str, ...]) -> str:
    digest = hashlib.sha256(" ".join((*compiler, *FLAGS, *_processor())).encode())
    for file in (source, *sorted(HEADERS.glob("*.hpp")), HEADERS / "unicode.py"):
        digest.update(file.read_bytes())
    return digest.hexdigest()


@functools.cache
def _processor() -> tuple[str, ...]:
    """What `-march=native` depends on: the machine and its instruction sets."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else [platform.processor()]
    features = next((line for line in lines if line.startswith(("flags", "Features"))), lines[0])
    return (platform.machine(), features, platform.python_version())


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
