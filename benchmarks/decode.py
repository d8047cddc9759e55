"""Luban beside HF transformers on this machine: one greedy request to the real SmolLM2-135M in float32.

    python benchmarks/decode.py [--rounds 7] [--json FILE]

Each side lives in a process of its own, because memory settings are per process; the sides take turns
measurement by measurement, so that a machine whose speed drifts is the same for all. `hf` is transformers as
it comes; `hf+malloc` has Luban's allocator settings too.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from luban.fetch import fetch_known

SIDES = ("luban", "hf", "hf+malloc")
PROMPT, NEW = "The master builder looked at the beam for a long time, then he said", 48


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options.worker)
    results = compare(options.rounds)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return None


def compare(rounds: int) -> dict[str, Any]:
    """Tokens per second of each side and the medians of the pairwise ratios."""
    command = [sys.executable, __file__, "--worker"]
    fetch_known("smollm2")  # once, before three processes ask for it
    workers = {
        side: subprocess.Popen([*command, side], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for side in SIDES
    }
    for worker in workers.values():
        answer(worker)
    rates: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side, worker in workers.items():
            rates[side].append(answer(worker, "run")["rate"])
    memory = {side: answer(worker, "memory")["mb"] for side, worker in workers.items()}
    for worker in workers.values():
        worker.communicate()
    print(f"\n{rounds} rounds, tokens per second")
    found: dict[str, Any] = {}
    for side in SIDES:
        ratio = statistics.median(a / b for a, b in zip(rates["luban"], rates[side], strict=True))
        low, middle, high = min(rates[side]), statistics.median(rates[side]), max(rates[side])
        found[side] = {
            "median": middle,
            "min": low,
            "max": high,
            "luban_over": ratio,
            "peak_mb": memory[side],
        }
        print(
            f"  {side:<10} {middle:9.1f}  ({low:.1f} to {high:.1f})  luban is {ratio:.2f}x  peak {memory[side]:.0f} MB"
        )
    return found


def answer(worker: subprocess.Popen[str], question: str | None = None) -> dict[str, float]:
    assert worker.stdin is not None
    assert worker.stdout is not None
    if question:
        worker.stdin.write(question + "\n")
        worker.stdin.flush()
    line = worker.stdout.readline()
    if not line:
        raise SystemExit(f"a worker died: {worker.args}")
    return json.loads(line)


def work(side: str) -> None:
    """Answer `run` with a rate in tokens per second and `memory` with the peak so far."""
    import torch

    from luban.device import reuse_memory

    if side != "hf":
        reuse_memory()
    torch.manual_seed(0)
    torch.set_num_threads(2)
    measured = luban_decode() if side == "luban" else hf_decode()
    for _ in range(2):
        measured()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        if line.strip() == "memory":
            print(json.dumps({"mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}), flush=True)
            continue
        begun = time.perf_counter()
        tokens = measured()
        print(json.dumps({"rate": tokens / (time.perf_counter() - begun)}), flush=True)


def luban_decode() -> Callable[[], int]:
    """A function that answers one prompt greedily with the real 135 M model and returns the new tokens."""
    from luban.inference.local import open_lm
    from luban.lm import Sampling

    lm = open_lm(str(fetch_known("smollm2")))
    sampling = Sampling(max_tokens=NEW, temperature=0, ignore_eos=True)
    return lambda: len(lm.generate([PROMPT], sampling)[0].tokens)


def hf_decode() -> Callable[[], int]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = str(fetch_known("smollm2"))
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt = AutoTokenizer.from_pretrained(folder)(PROMPT, return_tensors="pt")
    settings = {"do_sample": False, "max_new_tokens": NEW, "min_new_tokens": NEW}
    return lambda: model.generate(**prompt, **settings).shape[1] - prompt["input_ids"].shape[1]


if __name__ == "__main__":
    main()
