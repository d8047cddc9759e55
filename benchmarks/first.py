"""Luban beside HF transformers on this machine: training at two sizes and decoding one request.

    python benchmarks/first.py [train-s train-tiny decode] [--rounds 7] [--json FILE]

Each side lives in a process of its own, because memory settings are per process; the sides take turns
measurement by measurement, so that a machine whose speed drifts is the same for all. `hf` is transformers as
it comes (eager, SDPA, fused AdamW); `hf+malloc` has Luban's allocator settings too. Training: random weights and
tokens. Decoding: the real SmolLM2-135M in float32, one greedy request.
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

TASKS = ("train-s", "train-tiny", "decode")
SIDES = ("luban", "hf", "hf+malloc")
SHAPES: dict[str, dict[str, int]] = {
    "train-s": {
        "layers": 6,
        "dim": 384,
        "heads": 6,
        "hidden": 1024,
        "vocab": 8192,
        "batch": 16,
        "context": 256,
    },
    "train-tiny": {
        "layers": 4,
        "dim": 128,
        "heads": 4,
        "hidden": 352,
        "vocab": 4096,
        "batch": 16,
        "context": 256,
    },
    "decode": {
        "layers": 30,
        "dim": 576,
        "heads": 9,
        "kv_heads": 3,
        "hidden": 1536,
        "vocab": 49152,
        "context": 2048,
    },
}
PROMPT, NEW = "The master builder looked at the beam for a long time, then he said", 48
STEPS = {"train-s": 2, "train-tiny": 8}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", nargs="*", default=TASKS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options.worker, options.tasks[0])
    results = {task: compare(task, options.rounds) for task in options.tasks}
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return None


def compare(task: str, rounds: int) -> dict[str, Any]:
    """Tokens per second of each side and the medians of the pairwise ratios."""
    command = [sys.executable, __file__, task, "--worker"]
    if task == "decode":
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
    print(f"\n{task}: {rounds} rounds, tokens per second")
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


def work(side: str, task: str) -> None:
    """Answer `run` with a rate in tokens per second and `memory` with the peak so far."""
    import torch

    from luban.device import reuse_memory

    if side != "hf":
        reuse_memory()
    torch.manual_seed(0)
    torch.set_num_threads(2)
    if task == "decode":
        measured = luban_decode() if side == "luban" else hf_decode()
    else:
        measured = (luban_training if side == "luban" else hf_training)(task, SHAPES[task])
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


def luban_training(task: str, shape: dict[str, int]) -> Callable[[], int]:
    """A function that does one measurement and returns its tokens."""
    import torch

    from luban.data.batch import Batch
    from luban.models.llama import Llama, LlamaConfig
    from luban.training.config import OptimizerConfig
    from luban.training.optim import adamw
    from luban.training.step import Accumulated, Updater, compiled_hidden, next_token

    numbers: dict[str, Any] = {key: value for key, value in shape.items() if key != "batch"}
    model = Llama(LlamaConfig(**numbers))
    rows, context = shape["batch"], shape["context"]
    tokens = torch.randint(0, shape["vocab"], (rows, context + 1))
    batch = Batch(
        tokens=tokens[:, :-1],
        targets=tokens[:, 1:].contiguous(),
        positions=torch.arange(context).expand(rows, context).contiguous(),
        documents=torch.zeros(rows, context, dtype=torch.int64),
        ids=[],
        packed=False,
    )
    optimizer = adamw(model, OptimizerConfig())
    updater = Updater(optimizer, Accumulated(model, next_token(compiled_hidden(model))), max_grad_norm=1.0)

    def train() -> int:
        for _ in range(STEPS[task]):
            updater.update([batch], learning_rate=1e-4)
        return STEPS[task] * rows * context

    return train


def hf_training(task: str, shape: dict[str, int]) -> Callable[[], int]:
    """The same work by transformers, as its documentation shows it, in a plain loop."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        num_hidden_layers=shape["layers"],
        hidden_size=shape["dim"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["heads"],
        intermediate_size=shape["hidden"],
        vocab_size=shape["vocab"],
        max_position_embeddings=shape["context"],
        tie_word_embeddings=False,
    )
    model: Any = LlamaForCausalLM(config)
    tokens = torch.randint(0, shape["vocab"], (shape["batch"], shape["context"]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def train() -> int:
        for _ in range(STEPS[task]):
            loss = model(input_ids=tokens, labels=tokens).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            loss.item()
        return STEPS[task] * tokens.numel()

    return train


if __name__ == "__main__":
    main()
