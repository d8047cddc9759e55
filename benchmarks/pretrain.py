"""Training steps: Luban beside transformers, nanoGPT and LitGPT on this machine.

    python benchmarks/pretrain.py [s m tiny] [--rounds 7] [--sides luban hf ...] [--json FILE]
        [--nanogpt FOLDER_WITH_MODEL_PY] [--peer-python PYTHON_WITH_LITGPT] [--threads 2] [--cpu]

Each side lives in a process of its own, because memory settings are per process; the sides take turns step by
step, so that a machine whose speed drifts is the same for all, and ratios are medians of the rounds' own ratios.
Equal work: random tokens, float32, forward, backward, clipping by the global norm, AdamW, the same number of
parameters and tokens (nanoGPT's model is GPT-2: 14 M of them instead of 17 M in S). The shares of GEMM are of rates
that every round measures itself: `torch.mm` (MKL) and the product Luban calls (oneDNN).

`hf` is transformers as it comes (SDPA, fused AdamW, plain loop), `hf+malloc` with Luban's allocator settings too,
`hf-trainer` its Trainer. nanoGPT: `git clone https://github.com/karpathy/nanoGPT`. LitGPT: `pip install litgpt`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Shape = dict[str, int]
Step = Callable[[], Any]

SHAPES: dict[str, Shape] = {
    "s": {"layers": 6, "dim": 384, "heads": 6, "hidden": 1024, "vocab": 8192, "context": 256, "rows": 16},
    "m": {"layers": 12, "dim": 768, "heads": 12, "hidden": 2048, "vocab": 32000, "context": 512, "rows": 4},
    "tiny": {"layers": 4, "dim": 128, "heads": 4, "hidden": 352, "vocab": 4096, "context": 256, "rows": 16},
}
STEPS = {"s": 1, "m": 1, "tiny": 4}
"""Steps of a round."""
RATE = 3e-4


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sizes", nargs="*", default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--nanogpt", type=Path, default=Path.home() / ".cache" / "nanoGPT")
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--cpu", action="store_true", help="CPU seconds, for --threads 1 on a busy machine")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options.worker, SHAPES[options.sizes[0]], options)
    results = {size: compare(size, options) for size in options.sizes}
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return None


def compare(size: str, options: argparse.Namespace) -> dict[str, Any]:
    """Speeds of the sides that can run here, Luban's ratios over them, their peaks and shares of GEMM."""
    workers = {side: Worker(side, size, options) for side in options.sides}
    running = {side: worker for side, worker in workers.items() if worker.ready()}
    rounds = [
        {side: worker.ask("run", steps=STEPS[size]) for side, worker in running.items()}
        for _ in range(options.rounds)
    ]
    found = {side: summary(side, rounds) for side in running}
    for side, worker in running.items():
        found[side]["peak_mb"] = worker.ask("memory")["mb"]
        worker.end()
    show(size, options.rounds, found)
    return found


def summary(side: str, rounds: list[dict[str, dict[str, float]]]) -> dict[str, float]:
    """Medians over the rounds; a ratio is taken within its round."""
    speeds = [each[side]["tokens_per_s"] for each in rounds]
    ours = [side for side in ("luban", "luban-compiled") if side in rounds[0]]
    return {
        "tokens_per_s": statistics.median(speeds),
        "lowest": min(speeds),
        "highest": max(speeds),
        "parameters": rounds[0][side]["parameters"],
        **{
            f"{our} over it": statistics.median(
                each[our]["tokens_per_s"] / each[side]["tokens_per_s"] for each in rounds
            )
            for our in ours
        },
        **{
            f"share of {rate}": statistics.median(
                each[side]["flop_per_s"] / each[side][rate] for each in rounds
            )
            for rate in ("torch_gemm", "onednn_gemm")
        },
    }


def show(size: str, rounds: int, found: dict[str, dict[str, float]]) -> None:
    print(f"\n{size}: {rounds} rounds; tokens/s (lowest to highest)")
    for side, row in found.items():
        ratios = ", ".join(f"{name} {value:.2f}x" for name, value in row.items() if name.endswith("over it"))
        print(
            f"  {side:<18} {row['tokens_per_s']:9.0f} ({row['lowest']:.0f} to {row['highest']:.0f})"
            f"  {row['parameters'] / 1e6:.1f} M  peak {row['peak_mb']:.0f} MB"
            f"  of GEMM: torch {row['share of torch_gemm']:.2f}, oneDNN {row['share of onednn_gemm']:.2f}  {ratios}"
        )


class Worker:
    """A side in its own process."""

    def __init__(self, side: str, size: str, options: argparse.Namespace) -> None:
        python = options.peer_python if side == "litgpt" else sys.executable
        command = [python, __file__, size, "--worker", side]
        command += ["--nanogpt", str(options.nanogpt), "--threads", str(options.threads)]
        command += ["--cpu"] if options.cpu else []
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.side = side

    def ready(self) -> bool:
        """Wait for its first steps; a side that cannot run here says why on stderr and is left out."""
        answer = self._answer()
        if not answer:
            print(f"{self.side}: left out, see above", file=sys.stderr)
        return bool(answer)

    def ask(self, question: str, **more: int) -> dict[str, float]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"question": question, **more}) + "\n")
        self.process.stdin.flush()
        answer = self._answer()
        if not answer:
            raise SystemExit(f"the process of {self.side} died")
        return answer

    def end(self) -> None:
        self.process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith('{"'):  # peers print lines of their own
                return json.loads(line)
        return {}


def work(side: str, shape: Shape, options: argparse.Namespace) -> None:
    """Answer `run` with the speed of some steps and the GEMM rates right then, and `memory` with the peak."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    build, own_memory = SIDES[side]
    if own_memory:
        reuse_memory()
    step, model = build(shape, options)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    tokens = shape["rows"] * shape["context"]
    clock = time.process_time if options.cpu else time.perf_counter
    for _ in range(2):
        step()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["question"] == "memory":
            print(json.dumps({"mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}), flush=True)
            continue
        begun = clock()
        for _ in range(asked["steps"]):
            step()
        speed = asked["steps"] * tokens / (clock() - begun)
        answer = {"tokens_per_s": speed, "parameters": parameters, "flop_per_s": speed * flops(side, shape)}
        print(json.dumps({**answer, **gemm_rates(clock)}), flush=True)


def flops(side: str, shape: Shape) -> float:
    """FLOPs of one token, forward and backward; a causal query sees half the row on average."""
    mlp = 8 * shape["dim"] ** 2 if side.startswith("nanogpt") else 3 * shape["dim"] * shape["hidden"]
    weights = shape["layers"] * (4 * shape["dim"] ** 2 + mlp) + shape["dim"] * shape["vocab"]
    return 3.0 * (2 * weights + 2 * shape["layers"] * shape["dim"] * shape["context"])


def gemm_rates(clock: Callable[[], float]) -> dict[str, float]:
    """FLOP/s of a square product now, by torch.mm and by oneDNN."""
    import torch

    def product() -> Any:
        return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")

    a, b = torch.rand(1024, 1024), torch.rand(1024, 1024)
    rates = {}
    for name, call in (("torch_gemm", lambda: a @ b), ("onednn_gemm", product)):
        best = float("inf")
        for _ in range(6):
            begun = clock()
            call()
            best = min(best, clock() - begun)
        rates[name] = 2 * 1024**3 / best
    return rates


def reuse_memory() -> None:
    """Luban's allocator settings, from its file: the interpreter of a peer need not have its dependencies."""
    import ctypes

    mallopt = ctypes.CDLL(None).mallopt
    for what, value in ((-4, 0), (-3, 1 << 30), (-1, (2 << 30) - 1), (-2, 64 << 20)):
        mallopt(what, value)


def luban(shape: Shape, _options: argparse.Namespace, *, compiled: bool = False) -> tuple[Step, Any]:
    import torch

    from luban.data.batch import Batch
    from luban.models.llama import Llama, LlamaConfig
    from luban.training.step import compiled_hidden, next_token
    from luban.training.trial import updater

    numbers: dict[str, Any] = {name: value for name, value in shape.items() if name != "rows"}
    model = Llama(LlamaConfig(**numbers))
    rows, context = shape["rows"], shape["context"]
    tokens = torch.randint(0, shape["vocab"], (rows, context + 1))
    batch = Batch(
        tokens=tokens[:, :-1].contiguous(),
        targets=tokens[:, 1:].contiguous(),
        positions=torch.arange(context).expand(rows, context).contiguous(),
        documents=torch.zeros(rows, context, dtype=torch.int64),
        ids=[],
        packed=False,
    )
    ours = updater(model, next_token(compiled_hidden(model) if compiled else None))
    return lambda: ours.update([batch], learning_rate=RATE), model


def luban_compiled(shape: Shape, options: argparse.Namespace) -> tuple[Step, Any]:
    return luban(shape, options, compiled=True)


def plain_loop(model: Any, loss_of: Callable[[], Any]) -> Step:
    """A training step as tutorials write it."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)

    def step() -> None:
        loss = loss_of()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return step


def hf_model(shape: Shape) -> Any:
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
    return LlamaForCausalLM(config)


def hf(shape: Shape, _options: argparse.Namespace) -> tuple[Step, Any]:
    import torch

    model = hf_model(shape).train()
    tokens = torch.randint(0, shape["vocab"], (shape["rows"], shape["context"]))
    return plain_loop(model, lambda: model(input_ids=tokens, labels=tokens).loss), model


def hf_trainer(shape: Shape, options: argparse.Namespace) -> tuple[Step, Any]:
    """One call of the Trainer's own step and of its optimizer, on the batch that its loader would give."""
    import tempfile

    import torch
    from transformers import Trainer, TrainingArguments

    model = hf_model(shape)
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=shape["rows"],
        optim="adamw_torch_fused",
        max_steps=1_000_000,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="no",
        use_cpu=True,
    )
    torch.set_num_threads(options.threads)
    tokens = torch.randint(0, shape["vocab"], (shape["rows"], shape["context"]))
    batch = {"input_ids": tokens, "labels": tokens}
    trainer: Any = Trainer(model=model, args=arguments)
    trainer.create_optimizer_and_scheduler(num_training_steps=1_000_000)
    trainer.current_gradient_accumulation_steps = 1
    trainer.model_wrapped, trainer.optimizer = trainer.accelerator.prepare(model, trainer.optimizer)

    def step() -> None:
        loss = trainer.training_step(trainer.model_wrapped, batch)
        trainer.accelerator.clip_grad_norm_(model.parameters(), 1.0)
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
        model.zero_grad()
        loss.item()

    return step, model


def nanogpt(shape: Shape, options: argparse.Namespace, *, compiled: bool = False) -> tuple[Step, Any]:
    import torch

    spec = importlib.util.spec_from_file_location("nanogpt_model", options.nanogpt / "model.py")
    if spec is None or spec.loader is None or not (options.nanogpt / "model.py").is_file():
        raise SystemExit(f"{options.nanogpt}: no model.py; git clone https://github.com/karpathy/nanoGPT")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    config = module.GPTConfig(
        n_layer=shape["layers"],
        n_head=shape["heads"],
        n_embd=shape["dim"],
        vocab_size=shape["vocab"],
        block_size=shape["context"],
        bias=False,
        dropout=0.0,
    )
    model = module.GPT(config)
    called = torch.compile(model) if compiled else model
    tokens = torch.randint(0, shape["vocab"], (shape["rows"], shape["context"] + 1))
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    return plain_loop(model, lambda: called(inputs, targets)[1]), model


def nanogpt_compiled(shape: Shape, options: argparse.Namespace) -> tuple[Step, Any]:
    return nanogpt(shape, options, compiled=True)


def litgpt(shape: Shape, _options: argparse.Namespace) -> tuple[Step, Any]:
    import torch
    from litgpt import GPT, Config  # pyright: ignore[reportMissingImports] - a peer, in its own Python

    config = Config(
        n_layer=shape["layers"],
        n_head=shape["heads"],
        n_embd=shape["dim"],
        intermediate_size=shape["hidden"],
        vocab_size=shape["vocab"],
        padded_vocab_size=shape["vocab"],
        block_size=shape["context"],
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
    )
    model = GPT(config)
    tokens = torch.randint(0, shape["vocab"], (shape["rows"], shape["context"] + 1))
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def loss() -> Any:
        return torch.nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())

    return plain_loop(model, loss), model


SIDES: dict[str, tuple[Callable[[Shape, argparse.Namespace], tuple[Step, Any]], bool]] = {
    "luban": (luban, True),
    "luban-compiled": (luban_compiled, True),
    "hf": (hf, False),
    "hf+malloc": (hf, True),
    "hf-trainer": (hf_trainer, False),
    "nanogpt": (nanogpt, False),
    "nanogpt-compiled": (nanogpt_compiled, False),
    "litgpt": (litgpt, False),
}
"""By name: what makes a side's step and model, and whether the process has Luban's allocator settings."""


if __name__ == "__main__":
    main()
