"""Sides in processes of their own that take turns, so that a machine whose speed drifts is the same for all of them."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CPU = "--cpu"
"""Word that makes a side count CPU seconds, which say more on a busy machine (with one thread)."""


class Side:
    """A process of `module`, run by `python`, that does the same piece of work each time it is asked."""

    def __init__(
        self, module: str, name: str, words: Sequence[str], *, python: str | Path = sys.executable
    ) -> None:
        command = [str(python), "-m", module, name, *words]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.name = name
        self.process = subprocess.Popen(command, cwd=ROOT, **pipes)

    def ask(self, question: str) -> dict[str, float]:
        """Its answer; SystemExit if it died."""
        assert self.process.stdin is not None
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, float]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith('{"'):  # peers print lines of their own
                return json.loads(line)
        raise SystemExit(f"the process of {self.name} died")


def compare(
    module: str, names: Sequence[str], words: Sequence[str], rounds: int
) -> dict[str, dict[str, Any]]:
    """Tokens per second of each side in each round, and its peak memory in MB."""
    return in_turn([Side(module, name, words) for name in names], rounds)


def in_turn(sides: Sequence[Side], rounds: int) -> dict[str, dict[str, Any]]:
    """The same for sides that were just begun."""
    for side in sides:
        side.answer()
    rates: dict[str, list[float]] = {side.name: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            rates[side.name].append(side.ask("run")["tokens_per_s"])
    found = {side.name: {"rates": rates[side.name], "peak_mb": side.ask("memory")["mb"]} for side in sides}
    for side in sides:
        side.process.communicate()
    return found


def show(title: str, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Print each side's rate and peak, and what the first of them is over it, as the median of the rounds' ratios."""
    first, *_ = found.values()
    print(f"\n{title}: {len(first['rates'])} rounds")
    for name, side in found.items():
        rate, ratio = statistics.median(side["rates"]), over(first, side)
        low, high = min(side["rates"]), max(side["rates"])
        share = first["peak_mb"] / side["peak_mb"]
        print(
            f"  {name:<14} {rate:9.1f} tokens/s ({low:.1f} to {high:.1f})  peak {side['peak_mb']:6.0f} MB"
            f"   the first is {ratio:.2f}x, at {share:.2f} of its memory"
        )


def over(first: Mapping[str, Any], side: Mapping[str, Any]) -> float:
    """How many times as fast the first is, within the same rounds."""
    return statistics.median(a / b for a, b in zip(first["rates"], side["rates"], strict=True))


def serve(work: Callable[[], int], *, cpu: bool) -> None:
    """Answer `run` with the rate of one call of `work`, which returns its tokens, and `memory` with the peak."""
    clock = time.process_time if cpu else time.perf_counter
    work()  # the first step makes the optimizer's state
    print(json.dumps({"ready": 1}), flush=True)
    for line in sys.stdin:
        if line.strip() == "memory":
            print(json.dumps({"mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}), flush=True)
            continue
        begun = clock()
        tokens = work()
        print(json.dumps({"tokens_per_s": tokens / (clock() - begun)}), flush=True)
