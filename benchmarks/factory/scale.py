"""10, 100 and 1000 MB through filters, near-duplicates and repeated passages: seconds per MB and memory.

The bound on memory stays the same (`--memory 0.5`), so the largest corpus is larger than it. Files of this kind:
`corpus.large`. One run per size; with `--rounds` more.
"""

from __future__ import annotations

import re
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

from factory import corpus
from factory.command import HERE, WORKERS, prepare
from factory.measure import Run, in_turn, save, spread, table
from luban.folder import read_json

SIZES, GIGABYTES = (10, 100, 1000), "0.5"


def run(options: Namespace) -> None:
    sizes = [size for size in SIZES if size <= options.largest]
    files = {size: corpus.large(size) for size in sizes}
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        out = Path(name) / "out"
        found: dict[str, Any] = {"workers": WORKERS, "memory_gb": GIGABYTES, "sizes": []}
        for size, path in files.items():
            runs = in_turn({f"{size} MB": lambda path=path: _prepare(path, out)}, options.rounds)[
                f"{size} MB"
            ]
            found["sizes"].append(_row(size, runs, out))
            save("scale", found)
    table(
        f"filters, minhash, substrings; {WORKERS} workers, --memory {GIGABYTES}",
        [_short(row) for row in found["sizes"]],
    )
    table(
        "wall ms per MB that came in, by stage",
        [{"MB": row["MB"], **row["stages"]} for row in found["sizes"]],
    )
    table("worker ms per MB, by step", [{"MB": row["MB"], **row["steps"]} for row in found["sizes"]])
    print(save("scale", found))


def _prepare(path: Path, out: Path) -> Run:
    return prepare(
        path, out, "--memory", GIGABYTES, "--part-mb", "8", recipe=HERE / "scale.yaml", sample_s=0.2
    )


def _row(size: int, runs: list[Run], out: Path) -> dict[str, Any]:
    stages = re.findall(r"(?m)^(\w+): .*?, ([\d.]+) s, [\d.]+ MB/s", runs[-1].output)
    counts = {path.parent.name[3:]: read_json(path) for path in sorted(out.glob("stages/*/stats.json"))}
    megabytes = {name: count["bytes_in"] / 1e6 for name, count in counts.items()}
    return {
        "MB": size,
        "documents": counts["text"]["documents_in"],
        "kept": counts["split"]["documents_kept"],
        "wall": [one.wall_s for one in runs],
        "peak_mb": max(one.peak_mb for one in runs),
        "stages": {name: round(1000 * float(seconds) / megabytes[name], 1) for name, seconds in stages},
        "steps": {
            step: round(1000 * seconds / megabytes[stage], 1)
            for stage, count in counts.items()
            for step, seconds in count["seconds"].items()
        },
        "log": runs[-1].output[:2000],
    }


def _short(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "MB": row["MB"],
        "documents": row["documents"],
        "kept": row["kept"],
        "wall s": spread(row["wall"], 1),
        "MB/s": row["MB"] / sorted(row["wall"])[len(row["wall"]) // 2],
        "peak MB": round(row["peak_mb"]),
    }
