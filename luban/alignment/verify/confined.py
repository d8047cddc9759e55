"""The process that `sandbox.py` starts: it reads its task, limits itself, and tells which tests passed.

It stands alone: run as a script by a Python without site packages, it imports nothing of Luban's.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import types
from typing import Any

REFUSED = (
    "socket.", "subprocess.", "shutil.", "ctypes.", "signal.", "pty.", "webbrowser.", "urllib.", "sys.addaudithook",
    "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.kill", "os.remove", "os.rename", "os.rmdir", "os.mkdir",
    "os.chmod", "os.chown", "os.link", "os.symlink", "os.truncate", "os.listdir", "os.scandir", "os.putenv",
)  # fmt: skip
"""Beginnings of the audit events that generated code has no business with."""
WRITES = 0o1101
"""Flags of `open` that change a file: write, create, truncate."""


class Nowhere:
    """Where the code's own words go."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""


def confine(seconds: float, memory_mb: int) -> None:
    """Give this process, for the rest of its life, so much of the machine and nothing of the outside."""
    most = {
        resource.RLIMIT_CPU: math.ceil(seconds),
        resource.RLIMIT_AS: memory_mb << 20,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,
    }
    for name, limit in most.items():
        resource.setrlimit(name, (limit, limit))
    sys.addaudithook(_judge)


def _judge(event: str, values: tuple[Any, ...]) -> None:
    if event.startswith(REFUSED) or (event == "import" and values[0] in ("ctypes", "_ctypes")):
        raise PermissionError(f"{event} is refused here")
    if event == "open":
        path, _, flags = values
        library = isinstance(path, str) and path.startswith((sys.base_prefix, sys.prefix))
        if not library or (flags or 0) & WRITES:
            raise PermissionError("files are refused here")


def main() -> None:
    """Run the code, then each test in its world; the secret word goes out for each that raises nothing."""
    code, tests, word, seconds, memory_mb = json.loads(sys.stdin.readline())
    out, answer = sys.stdout, types.ModuleType("answer")
    sys.modules["answer"] = answer  # where dataclasses and pickle look for a class's module
    sys.stdout = sys.stderr = Nowhere()
    confine(seconds, memory_mb)
    try:
        exec(compile(code, "answer", "exec"), answer.__dict__)
    except BaseException:  # noqa: BLE001 - whatever the code does is its own
        return
    for test in tests:
        try:
            exec(compile(test, "test", "exec"), answer.__dict__)
        except BaseException:  # noqa: BLE001 - a test that raises has failed
            continue
        out.write(f"{word}\n")
        out.flush()


if __name__ == "__main__":
    main()
