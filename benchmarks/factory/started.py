"""The chain over a small input, then, measured, over a large one, in one process; started by `ray.py`.

    python -m factory.started SMALL.jsonl LARGE.jsonl OUT pool|ray

Prints the seconds of the second run as JSON: the pool's processes, or Ray's, have started and imported before it.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from factory.command import HERE, WORKERS
from factory.measure import tree_cpu_s
from luban.data.prepare import Config, run


def main() -> None:
    small, large, out = map(Path, sys.argv[1:4])
    engine: Any = sys.argv[4]

    def chain(path: Path) -> None:
        shutil.rmtree(out, ignore_errors=True)
        recipe = str(HERE / "chain.yaml")
        run(
            Config(data=(path,), out=out, recipe=recipe, holdout=0, workers=WORKERS, engine=engine, part_mb=4)
        )

    chain(small)
    wall, cpu = time.perf_counter(), tree_cpu_s()
    chain(large)
    print(json.dumps({"wall_s": time.perf_counter() - wall, "cpu_s": tree_cpu_s() - cpu}))


if __name__ == "__main__":
    main()
