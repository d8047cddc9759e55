"""Does it learn, with which seeds, at which KL: the planted tasks of `tests/alignment/planted.py`, several seeds each.

    python -m benchmarks.alignment --out alignment --seeds 0 1 2

Prints, for each run, reward and KL of the first iteration and of the last five, the held-out reward before and after,
and the seconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from luban.alignment import grpo, ppo
from luban.training.metrics import read_log
from tests.alignment.planted import (
    CHECKED_SUMS,
    GROUPS,
    STEADY,
    SWITCHES_OFF,
    mean_of,
    plant,
    plant_sums,
    run_stage,
)

RUNS: dict[str, tuple[Callable[[Path], Path], Any, str]] = {
    "PPO": (plant, ppo, STEADY),
    "PPO, switches off": (plant, ppo, f"{STEADY} {SWITCHES_OFF}"),
    "GRPO": (plant, grpo, GROUPS),
    "GRPO, sums": (plant_sums, grpo, CHECKED_SUMS),
}
"""What is planted, which stage learns it, and with which words."""


def main() -> None:
    """Run all of `RUNS` with each seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=[*RUNS])
    told = parser.parse_args()
    print("| run | seed | reward | KL | held out | ended | seconds |\n|---|---|---|---|---|---|---|")
    for name in told.runs:
        planting, stage, words = RUNS[name]
        root = told.out / planting.__name__
        if not root.exists():
            planting(root)
        for seed in told.seeds:
            begun, out = time.process_time(), told.out / f"{name.replace(' ', '-')}-{seed}"
            *lines, after = run_stage(stage, root, out, f"{words} seed={seed}")
            spent, last, before = time.process_time() - begun, lines[-5:], read_log(out)[0]
            print(
                f"| {name} | {seed} | {lines[0]['rollout/reward']:.2f} to {mean_of(last, 'rollout/reward'):.2f}"
                f" | {mean_of(last, 'rollout/kl'):.2f} | {before['val/reward']:.2f} to {after['val/reward']:.2f}"
                f" | {mean_of(last, 'rollout/finished'):.2f} | {spent:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
