"""Code of unknown worth in a process of its own (`confined.py`): seconds, memory, files and the outside are limited.

The kernel holds CPU time, memory, written files and new processes, the parent the clock, whatever the code does.
Python's audit events refuse sockets, other programs, files outside of the standard library and `ctypes`. That stops
accidents and lazy tricks; it is no wall against an attacker: for hostile models run the whole stage in a container.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CHILD = Path(__file__).parent / "confined.py"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a piece of code may use."""

    seconds: float = 2.0
    """Of the clock, for code and all tests together; of the CPU as much, rounded up."""
    memory_mb: int = 256
    """Address space."""


def passed(code: str, tests: Sequence[str], limits: Limits) -> int:
    """How many of `tests` pass after `code` within `limits`; those before one that hangs count."""
    word = secrets.token_hex(16)
    task = json.dumps([code, list(tests), word, limits.seconds, limits.memory_mb])
    with tempfile.TemporaryDirectory() as empty:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            cwd=empty,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        told = _heard(process, task, limits)
    return min(told.split("\n").count(word), len(tests))


def _heard(process: subprocess.Popen[str], task: str, limits: Limits) -> str:
    """What the process says until it ends or its time is over."""
    try:
        return process.communicate(task + "\n", timeout=limits.seconds)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()[0]
