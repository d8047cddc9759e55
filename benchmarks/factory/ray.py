"""The chain on Ray beside the chain on the pool: the same bytes, and what Ray costs on one machine.

Twice: whole commands, which start Ray and end it; and a larger input in a process whose pool, or Ray, is up already.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from factory import corpus
from factory.command import HERE, prepare
from factory.measure import Run, command, in_turn, ratio, save, spread, table

Engine = Literal["pool", "ray"]
ENGINES: tuple[Engine, ...] = ("pool", "ray")
LARGE_MB = 100
RECIPE = HERE / "chain.yaml"


def run(options: Namespace) -> None:
    path, _ = corpus.planted(options.kind, options.megabytes)
    large, _ = corpus.planted("mixed", LARGE_MB)
    with tempfile.TemporaryDirectory() as name:
        outs: dict[Engine, Path] = {engine: Path(name) / engine for engine in ENGINES}
        runs = _in_turn(lambda engine: _prepare(path, outs[engine], engine), options.rounds)
        differing = _differing(outs)
        steady = _in_turn(lambda engine: _started(path, large, outs[engine], engine), options.rounds)
        differing += _differing(outs)
        files = len(_prints(outs["pool"]))
    found: dict[str, Any] = {
        "whole commands": _compared(runs, options.megabytes),
        "already started": _compared(steady, LARGE_MB),
        "files": files,
        "files_that_differ": differing,
    }
    table(f"chain of {options.megabytes} MB, whole commands", found["whole commands"])
    table(f"chain of {LARGE_MB} MB, the engine already started", found["already started"])
    print(f"{files} files of documents, decisions and rejects; differing: {differing or 'none'}")
    print(save("ray", found))


def _in_turn(side: Callable[[Engine], Run], rounds: int) -> dict[Engine, list[Run]]:
    found = in_turn({engine: functools.partial(side, engine) for engine in ENGINES}, rounds)
    return {engine: found[engine] for engine in ENGINES}


def _prepare(path: Path, out: Path, engine: Engine) -> Run:
    return prepare(path, out, "--engine", engine, "--part-mb", "2.5", recipe=RECIPE)


def _started(small: Path, large: Path, out: Path, engine: Engine) -> Run:
    """The large input, after a small one in the same process; CPU time is that of all its processes."""
    words = [sys.executable, "-m", "factory.started", small, large, out, engine]
    run = command(words, env={"PYTHONPATH": str(HERE.parent)})
    return Run(**json.loads(run.output.splitlines()[-1]))


def _compared(runs: Mapping[Engine, Sequence[Run]], megabytes: float) -> list[dict[str, Any]]:
    walls = {engine: [one.wall_s for one in each] for engine, each in runs.items()}
    over = {engine: ratio(each, walls["pool"]) for engine, each in walls.items()}
    return [
        {
            "": engine,
            "wall s": spread(walls[engine]),
            "CPU s": spread([one.cpu_s for one in each]),
            "MB/s": megabytes / sorted(walls[engine])[len(each) // 2],
            "of the pool's time": "{median:.2f} ({min:.2f} to {max:.2f})".format(**over[engine]),
        }
        for engine, each in runs.items()
    ]


def _differing(outs: Mapping[Engine, Path]) -> list[str]:
    one, other = (_prints(out) for out in outs.values())
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def _prints(out: Path) -> dict[str, str]:
    """A digest of every file that holds documents or decisions."""
    files = [
        path for pattern in ("*.jsonl", "stages/**/*.jsonl", "stages/**/*.npy") for path in out.glob(pattern)
    ]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
