"""The chain on Ray beside the chain on the pool: the same bytes, and what Ray costs on one machine."""

from __future__ import annotations

import hashlib
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

from factory import corpus
from factory.command import HERE, prepare
from factory.measure import Run, in_turn, ratio, save, spread, table

ENGINES = ("pool", "ray")


def run(options: Namespace) -> None:
    path, _ = corpus.planted(options.kind, options.megabytes)
    with tempfile.TemporaryDirectory() as name:
        outs = {engine: Path(name) / engine for engine in ENGINES}
        runs = in_turn(
            {engine: (lambda engine=engine: _prepare(path, outs[engine], engine)) for engine in ENGINES},
            options.rounds,
        )
        one, other = (_prints(out) for out in outs.values())
    differing = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    walls = {engine: [each.wall_s for each in runs[engine]] for engine in ENGINES}
    found: dict[str, Any] = {
        "megabytes": options.megabytes,
        "wall_s": {engine: spread(each) for engine, each in walls.items()},
        "ray_over_pool": ratio(walls["ray"], walls["pool"]),
        "files": len(one),
        "files_that_differ": differing,
    }
    table(f"chain of {options.megabytes} MB, whole commands, seconds", [found["wall_s"]])
    table("Ray's time over the pool's", [found["ray_over_pool"]])
    print(f"{len(one)} files of documents, decisions and rejects; differing: {differing or 'none'}")
    print(save("ray", found))


def _prepare(path: Path, out: Path, engine: str) -> Run:
    return prepare(path, out, "--engine", engine, "--part-mb", "2.5", recipe=HERE / "chain.yaml")


def _prints(out: Path) -> dict[str, str]:
    """A digest of every file that holds documents or decisions."""
    files = [
        path for pattern in ("*.jsonl", "stages/**/*.jsonl", "stages/**/*.npy") for path in out.glob(pattern)
    ]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
