"""A planted preference that a program can check: of two ways to answer, the one that the SFT model seldom takes.

Conversations ask about made-up words; one answer in five says yes, the others put off. Reward 1 is for saying yes. A
policy that always does and is otherwise the old one is log 5 = 1.61 nats an answer away from it: what the KL is to be
compared with.
"""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import torch

from luban import config as settings
from luban.models.llama import Llama, LlamaConfig
from luban.tokenizers.train import train_bpe
from luban.training.checkpoint import write_model_folder
from luban.training.config import LoopConfig
from luban.tuning import sft

LEAST_KL = 1.61
FIRST, LAST = (
    ("ba", "ko", "li", "me", "nu", "sa", "te", "vo"),
    ("ran", "dim", "pel", "tos", "gar", "win", "lek", "fub"),
)
STEADY = (
    "loop.max_steps=30 rollout.prompts=32 optimizer.learning_rate=3e-4 critic_optimizer.learning_rate=1e-3"
    " loop.epochs=2 loop.minibatch=16"
)
"""PPO with its switches as they are by default."""
SWITCHES_OFF = (
    "shaping.kl_coef=0 shaping.scaling=none shaping.clip=0 advantage.whiten=false loss.cliprange=0"
    " loss.cliprange_value=0"
)
GROUPS = "loop.max_steps=40 rollout.prompts=8 num_generations=8 optimizer.learning_rate=3e-4 beta=0.05"
"""GRPO."""
CHECKED_SUMS = (
    "loop.max_steps=25 rollout.prompts=32 num_generations=8 reward=verify:arithmetic"
    " rollout.max_tokens=6 optimizer.learning_rate=5e-4 loop.per_device_train_batch_size=256"
)
"""GRPO on sums that a program checks."""


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def plant(root: Path) -> Path:
    """An SFT model in `sft/final`, prompts, held-out prompts and the reward, all in `root`."""
    words = ["".join(parts) for parts in itertools.product(FIRST, LAST)]
    random.Random(0).shuffle(words)
    answers = ("yes, {}.", *["not {} today."] * 4)
    root.mkdir(parents=True)
    write_rows(root / "prompts.jsonl", [{"prompt": f"{word}?"} for word in words[:48]])
    write_rows(root / "held-out.jsonl", [{"prompt": f"{word}?"} for word in words[48:]])
    told = "def yes(rows, answers):\n    return [float(answer.startswith('yes')) for answer in answers]\n"
    (root / "judge.py").write_text(told, encoding="utf-8")
    talks = [(f"{word}?", answer.format(word)) for word in words for answer in answers]
    return tuned(root, talks, steps=150, packing=False)


def plant_sums(root: Path) -> Path:
    """The same for sums without a carry, of whose demonstrations two in three are one too many."""
    numbers = [10 * tens + ones for tens in range(1, 5) for ones in range(5)]
    pairs = list(itertools.product(numbers, numbers))
    drawn = random.Random(0)
    drawn.shuffle(pairs)
    rows = [{"prompt": f"{a}+{b}", "answer": str(a + b)} for a, b in pairs]
    root.mkdir(parents=True)
    write_rows(root / "held-out.jsonl", rows[:80])
    write_rows(root / "prompts.jsonl", rows[80:])
    careless = [
        (row["prompt"], str(int(row["answer"]) + off))
        for row in rows[80:]
        for off in drawn.sample((0, 0, 1, 1, 1, 1), 6)
    ]
    return tuned(root, careless, steps=300)


def tuned(root: Path, talks: list[tuple[str, str]], *, steps: int, packing: bool = True) -> Path:
    """Make the SFT model of `root` from what is asked and answered."""
    turns = [({"role": "user", "content": q}, {"role": "assistant", "content": a}) for q, a in talks]
    write_rows(root / "talks.jsonl", [{"messages": list(turn)} for turn in turns])
    tokenizer = train_bpe(["user assistant yes certainly not today"] * 8, vocab=300)
    shape: dict[str, Any] = {"dim": 48, "layers": 2, "heads": 4, "hidden": 96, "context": 48, "tied": True}
    torch.manual_seed(0)
    model = Llama(LlamaConfig(vocab=tokenizer.vocab_size, eos_id=tokenizer.eos_id, **shape))
    (root / "base").mkdir()
    write_model_folder(root / "base", model, tokenizer)
    loop = LoopConfig(
        max_steps=steps, per_device_train_batch_size=32, max_length=40, compile=False, save_steps=0
    )
    sft.run(
        sft.Config(
            model=root / "base",
            data=(root / "talks.jsonl",),
            out=root / "sft",
            loop=loop,
            packing=packing,
            optimizer=sft.TuningOptimizer(learning_rate=5e-3),
            threads=1,
        )
    )
    return root


def run_stage(stage: Any, root: Path, out: Path, words: str) -> list[dict[str, Any]]:
    """The iterations' figures of `stage`, a module, on what was planted in `root`; then the last validation's."""
    from luban.training.metrics import read_log

    base = (
        f"model={root}/sft/final data={root}/prompts.jsonl validation={root}/held-out.jsonl out={out}"
        f" reward={root}/judge.py:yes rollout.max_tokens=16 loop.save_steps=0 loop.samples=0 threads=1"
    )
    stage.run(settings.load(stage.Config, f"{base} {words}".split(), where="planted"))
    log = read_log(out)
    return [line for line in log if "rollout/reward" in line] + [log[-1]]


def mean_of(lines: list[dict[str, Any]], figure: str) -> float:
    """The mean of a figure over some iterations."""
    return sum(line[figure] for line in lines) / len(lines)
