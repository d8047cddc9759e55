"""What tuning takes at its peak beside what is planned for it, each row a process of its own.

    full    all weights trained
    lora    rank 8 on all linear layers
    qlora   the same on a base in four bits

Planned as `luban plan peft.method=...` does (`training.saved.training_bytes`); the peak is the process's (VmHWM) less
what it held before the model was there.
"""

from __future__ import annotations

import functools
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
        (trained, taken), parts = peak(method, size), planned(method, size)
        states = sum(parts[part] for part in STATES)
        print(
            f"{size}: {method:<8} {trained:>12,} {states / 1e6:>10.0f} {parts['total'] / 1e6:>11.0f}"
            f" {taken / 1e6:>8.0f} {parts['total'] / taken:>6.2f}",
            flush=True,
        )


def peak(method: str, size: str) -> tuple[int, int]:
    """How many weights a process of its own trains, and the bytes it takes at its peak."""
    command = [sys.executable, "-m", "benchmarks.tuned.memory", method, size]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    trained, taken = map(int, done.stdout.split())
    return trained, taken


def planned(method: str, size: str) -> dict[str, float]:
    """Bytes by part."""
    from luban.training.saved import training_bytes
    from luban.training.sizes import count

    shape = shape_of(size)
    adapt = None if method == "full" else functools.partial(adapt_to, method)
    return training_bytes(shape, count(shape), rows=ROWS, seq=length(size), adapt=adapt)


def adapt_to(method: str, model: Any) -> None:
    """Put the method on `model`."""
    from luban.peft import METHODS as KNOWN

    known = KNOWN[method]
    known.apply(model, known.config(r=RANK, target_modules=("all-linear",)))


def shape_of(size: str) -> Any:
    """The config of a size."""
    from luban.models.llama import LlamaConfig

    return LlamaConfig(**SHAPES[size], tied=False)


def train(method: str, size: str) -> None:
    """Train here; prints how many weights are trained, and the peak."""
    import torch

    from benchmarks.memory import status
    from luban import device
    from luban.models import hf
    from luban.training.trial import random_batch, updater

    place = device.start(device.DeviceConfig(device="cpu", threads=1), seed=0)
    before = status("VmRSS")
    model: Any = hf.build(shape_of(size), device=place)
    if method != "full":
        adapt_to(method, model)
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    ours = updater(model)
    for _ in range(STEPS):
        batch = random_batch(model.config.vocab, rows=ROWS, length=length(size), device=torch.device("cpu"))
        ours.update([batch], learning_rate=RATE)
    print(trained, status("VmHWM") - before)


if __name__ == "__main__":
    train(*sys.argv[1:])
