"""What PPO takes at its peak beside what `luban plan ppo=...` says, each row a process of its own.

The peak is the process's (VmHWM) over two iterations, less what it held after its imports.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.aligned.setting import ANSWER, PROMPT, ROWS
from benchmarks.tuned.turns import ROOT

TRUNKS = ("shared", "separate")


def compare(folder: Path, out: Path) -> None:
    """Print a row for each trunk."""
    print(f"\n{'critic':<9} {'planned MB':>10} {'peak MB':>8} {'ratio':>6}")
    for trunk in TRUNKS:
        command = [sys.executable, "-m", "benchmarks.aligned.memory", trunk, str(folder), str(out)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
        peak, plan = int(done.stdout.split()[-1]), planned(folder, trunk)
        print(f"{trunk:<9} {plan / 1e6:>10.0f} {peak / 1e6:>8.0f} {plan / peak:>6.2f}", flush=True)


def planned(folder: Path, trunk: str) -> float:
    """Bytes that `luban plan` prints."""
    from luban import config as settings
    from luban.tuning import plan

    words = (
        f"model={folder}/policy ppo={trunk} per_device_train_batch_size={ROWS} max_length={PROMPT + ANSWER}"
    )
    told = plan.run(settings.load(plan.Config, words.split(), where="benchmark"))
    return told["memory_bytes"]["total"]


def iterate(trunk: str, folder: Path, out: Path) -> int:
    """Two iterations here; their peak."""
    import torch

    import luban.alignment.ppo_iteration  # noqa: F401 - what is imported is no part of the plan
    from benchmarks.aligned import ours
    from benchmarks.memory import status

    torch.ones(1)
    before = status("VmRSS")
    (out / trunk).mkdir(parents=True)
    work = ours.ppo(folder, out / trunk, threads="1", trunk=trunk)
    for _ in range(2):
        work()
    return status("VmHWM") - before


if __name__ == "__main__":
    kind, folder_told, out_told = sys.argv[1:]
    print(iterate(kind, Path(folder_told), Path(out_told)))
