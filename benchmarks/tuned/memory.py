"""What tuning takes at its peak beside what is planned for it, each row a process of its own.

    full    all weights trained
    lora    rank 8 on all linear layers
    qlora   the same on a base in four bits

Weights, gradients and optimizer are planned by `training.memory.adapted_bytes`, the rest as for training all weights
(`training.saved.training_bytes`): frozen layers keep no input for a gradient of their own, so it may take less. The
peak is the process's (VmHWM) less what it held before the model was there.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from benchmarks.tuned.lora_step import RANK, RATE, ROWS, SHAPES, length
from benchmarks.tuned.turns import ROOT

METHODS = ("full", "lora", "qlora")
STEPS = 3
"""The second step is the first with the optimizer's state; later ones take no more."""
STATES = ("weights", "gradients", "optimizer")


def compare(size: str) -> None:
    """Print a row for each method."""
    print(
        f"\n{size}: {'method':<8} {'trained':>12} {'states MB':>10} {'planned MB':>11} {'peak MB':>8} {'ratio':>6}"
    )
    for method in METHODS:
        command = [sys.executable, "-m", "benchmarks.tuned.memory", method, size]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
        trained, kept, quantised, peak = map(int, done.stdout.split())
        parts = planned(size, trained=trained, kept=kept, quantised=quantised)
        states, total = sum(parts[part] for part in STATES), sum(parts.values())
        print(
            f"{size}: {method:<8} {trained:>12,} {states / 1e6:>10.0f} {total / 1e6:>11.0f} {peak / 1e6:>8.0f}"
            f" {total / peak:>6.2f}",
            flush=True,
        )


def planned(size: str, *, trained: int, kept: int, quantised: int) -> dict[str, float]:
    """Bytes by part."""
    from luban.training.memory import adapted_bytes
    from luban.training.saved import training_bytes

    whole = training_bytes(shape_of(size), 0, rows=ROWS, seq=length(size))
    del whole["total"]
    return whole | adapted_bytes(quantised=quantised, kept=kept, trained=trained)


def shape_of(size: str) -> Any:
    """The config of a size."""
    from luban.models.llama import LlamaConfig

    return LlamaConfig(**SHAPES[size], tied=False)


def train(method: str, size: str) -> None:
    """Train here; prints how many weights are trained, kept as they are and in four bits, and the peak."""
    import torch

    from benchmarks.memory import status
    from luban import device
    from luban.models import hf
    from luban.nn.surgery import own_parameters
    from luban.peft import METHODS as KNOWN
    from luban.training.trial import random_batch, updater

    place = device.start(device.DeviceConfig(device="cpu", threads=1), seed=0)
    before = status("VmRSS")
    model: Any = hf.build(shape_of(size), device=place)
    whole = sum(weight.numel() for weight in model.parameters())
    if method != "full":
        known = KNOWN[method]
        known.apply(model, known.config(r=RANK, target_modules=("all-linear",)))
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    float_ones = sum(
        weight.numel() for weight in own_parameters(model).values() if weight.is_floating_point()
    )
    quantised = whole - float_ones if method == "qlora" else 0
    kept = 0 if method == "full" else whole - quantised
    ours = updater(model)
    for _ in range(STEPS):
        batch = random_batch(model.config.vocab, rows=ROWS, length=length(size), device=torch.device("cpu"))
        ours.update([batch], learning_rate=RATE)
    print(trained, kept, quantised, status("VmHWM") - before)


if __name__ == "__main__":
    train(*sys.argv[1:])
