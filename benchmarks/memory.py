"""How much memory training takes, against what `luban plan` says: `python benchmarks/memory.py [S M ...]`.

Each row is a fresh process that trains a few steps on random tokens: its peak (VmHWM) less what it held after its
imports. Config S and M are those of benchmarks/README.md.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

SHAPES: dict[str, tuple[dict[str, Any], int]] = {
    "XS": ({"layers": 4, "dim": 128, "heads": 2, "hidden": 352, "vocab": 2048, "context": 128}, 8),
    "S": ({"layers": 6, "dim": 384, "heads": 6, "hidden": 1024, "vocab": 8192, "context": 256}, 16),
    "M": ({"layers": 12, "dim": 768, "heads": 12, "hidden": 2048, "vocab": 32000, "context": 512}, 4),
}
"""Sizes of a LLaMA with its own head, and rows of a batch."""

STEPS = 3
"""The second step is the first with the optimizer's state; later ones take no more."""


def measured(name: str, *, rows: int, compiled: bool, steps: int = STEPS) -> int:
    """Bytes that a process training shape `name` takes at its peak, beyond an idle one."""
    words = [
        sys.executable,
        "-m",
        "benchmarks.memory",
        "--child",
        name,
        str(rows),
        str(int(compiled)),
        str(steps),
    ]
    return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def train(name: str, rows: int, compiled: bool, steps: int) -> int:
    """Train here and return the peak beyond what was held before."""

    from luban import device
    from luban.models import hf
    from luban.models.llama import LlamaConfig
    from luban.training.config import OptimizerConfig
    from luban.training.optim import adamw
    from luban.training.step import Accumulated, Updater, compiled_hidden, next_token
    from luban.training.trial import random_batch

    place = device.start(device.DeviceConfig(device="cpu", threads=1), seed=0)
    before = status("VmRSS")
    model = hf.build(LlamaConfig(**SHAPES[name][0], tied=False), device=place)
    objective = next_token(compiled_hidden(model) if compiled else None)
    updater = Updater(adamw(model, OptimizerConfig()), Accumulated(model, objective), max_grad_norm=1.0)
    for _ in range(steps):
        batch = random_batch(model.config.vocab, rows=rows, length=model.config.context, device=place)
        updater.update([batch], learning_rate=1e-4)
    return status("VmHWM") - before


def status(entry: str) -> int:
    """Bytes of an entry of this process's /proc status."""
    with open("/proc/self/status", encoding="utf-8") as lines:  # noqa: PTH123 - not a file to keep a path of
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(entry))


def main(names: list[str]) -> None:
    """Print a row for each shape, eager and compiled."""
    from luban.models.llama import LlamaConfig
    from luban.training.saved import training_bytes
    from luban.training.sizes import count

    print(f"{'shape':<6} {'mode':<9} {'planned MB':>10} {'peak MB':>8} {'ratio':>6}")
    for name in names or ["S", "M"]:
        shape, rows = SHAPES[name]
        config = LlamaConfig(**shape, tied=False)
        for compiled in (False, True):
            planned = training_bytes(config, count(config), rows=rows, seq=config.context, compiled=compiled)
            peak = measured(name, rows=rows, compiled=compiled)
            mode = "compiled" if compiled else "eager"
            ratio = planned["total"] / peak
            print(
                f"{name:<6} {mode:<9} {planned['total'] / 1e6:>10.0f} {peak / 1e6:>8.0f} {ratio:>6.3f}",
                flush=True,
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        name, rows, compiled, steps = sys.argv[2:]
        print(train(name, int(rows), compiled == "1", int(steps)))
    else:
        main(sys.argv[1:])
