"""Stage `quickstart`: the whole way on real text, each step a normal `luban` command shown with its time.

Every step's folder knows whether it is finished, so an interrupted quickstart goes on where it was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Gt

from luban.commands import luban
from luban.folder import read_json, write_json

CHATS = (
    "Hi! How are you today?",
    "What do you like to do on the weekend?",
    "What kind of book is this verse from?\nPaul, an apostle of Christ Jesus through the will of God, "
    "to the saints who are faithful in Christ: Grace to you and peace from God our Father.",
)
ASSISTANT_CHATS = (
    "What is the capital of France, and what is it known for?",
    "Explain in two sentences why the sky is blue.",
    "Write a short poem about a carpenter who makes his own tools.",
)
PROMPTS = ("In the beginning", "A: Hi, how are you?\nB:")
SIMPLE = ("web", "chitchat")
BOOKS = ("anarchism", "handbook", "reference-en", "reference-zh")
WEIGHTS = (4, 1)
"""Shares of simple texts and books: few words are what a model of minutes can learn (DATA.md)."""
ROWS = 8
"""Rows of a step: in a run of minutes many small steps learn more than few large ones (benchmarks/README.md)."""

SHARE_OF_SFT = 0.3
"""Tuning steps as a share of pretraining steps."""

ALIGNED_FROM_MINUTES = 1.0
"""A model of seconds seldom ends an answer, so there is nothing to prefer: with less pretraining it is left out."""
ROUNDS = 30
"""Iterations of PPO."""
LONGEST_ANSWER = 40
POLICY_RATE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Config:
    """Raw text to a chat in minutes, or a real small assistant."""

    out: Path = Path("runs/quickstart")
    """Folder for everything that is made."""
    model: Literal["own", "smollm2"] = "own"
    """`own` trains a small model from raw text; `smollm2` fetches the real SmolLM2-135M-Instruct and chats."""
    minutes: Annotated[float, Gt(0)] = 6.0
    """Pretraining time to plan for; everything else takes about half as long again."""


def run(config: Config) -> dict[str, Any]:
    """Run all steps; returns what was measured."""
    begun = time.monotonic()
    results = _assistant() if config.model == "smollm2" else _own(config.out, config.minutes)
    return {**results, "seconds": round(time.monotonic() - begun, 1)}


def show(results: dict[str, Any]) -> None:
    """Print the table a sceptic asks for, and where to go next."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if "bits_per_byte" in results:
        bits = Table("held-out text", "bits per byte", title="fewer is better")
        for name, row in sorted(results["bits_per_byte"].items(), key=lambda item: -item[1]["per_byte"]):
            bits.add_row("this model" if name == "model" else name, f"{row['per_byte']:.3f}")
        console.print(bits)
        questions = Table("held-out questions", "right", "95 % interval", title="one right answer of six")
        for name in ("before tuning", "after tuning"):
            row = results[name]
            share = f"{row['correct']} of {row['asked']}"
            questions.add_row(name, share, f"{row['low']:.1%} to {row['high']:.1%}")
        questions.add_row("always the commonest answer", f"{results['after tuning']['majority']:.1%}", "")
        console.print(questions)
        if "reward" in results:
            _show_aligned(console, results)
        for row in results["samples"]:
            print(f"step {row['step']}: {row['prompt']} ▸{row['text']}")
    console.print(f"\nall of it took {results['seconds'] / 60:.1f} minutes. Where to go next:")
    console.print(f"  luban chat --model {results['model']}        talk to it")
    if "aligned" in results:
        console.print(
            f"  luban chat --model {results['aligned']}   and to the one that asks back", soft_wrap=True
        )
    console.print("  luban STAGE --help                 every setting of every stage")
    console.print("  docs/tour.md                       one sentence, from text to served token")


def _show_aligned(console: Any, results: dict[str, Any]) -> None:
    from rich.table import Table

    aligned = Table("held-out chats", "before PPO", "after PPO", title="answers that ask back are preferred")
    aligned.add_row("reward of the greedy answer", *(f"{reward:.2f}" for reward in results["reward"]))
    aligned.add_row("drawn answers that ask back", *(f"{share:.1%}" for share in results["preferred"]))
    console.print(aligned)


def _assistant() -> dict[str, Any]:
    model = json.loads(luban("fetch", "smollm2", "--json", capture=True))["folder"]
    luban("chat", "--model", model, "--temperature", 0, "--max-tokens", 96, *_prompts(ASSISTANT_CHATS))
    return {"model": model}


def _own(out: Path, minutes: float) -> dict[str, Any]:
    raw, documents, tokenizer = out / "raw", out / "documents", out / "tokenizer"
    base, tuned = out / "base", out / "tuned"
    _corpus(raw, documents)
    luban("tokenizer", "train", "--data", documents, "--out", tokenizer, "--vocab", 4096)
    for part, held_out in (("shards", "false"), ("held-out", "true")):
        command = ("data", "shards", "--data", documents, "--tokenizer", tokenizer)
        luban(*command, "--holdout", held_out, "--out", out / part)
    settings, steps = _plan(out, minutes)
    luban("pretrain", "--data", out / "shards", "--tokenizer", tokenizer, "--validation", out / "held-out",
          "--out", base, *settings, f"loop.per_device_train_batch_size={ROWS}", "loop.eval_steps=250",
          "packing=windows",  # in whole documents one long chapter would fill many steps in a row
          "--prompts", *PROMPTS)  # fmt: skip
    rows = [raw / name / "conversations.jsonl" for name in ("web", "chitchat")]
    luban("sft", "--model", base / "final", "--data", *rows, "--out", tuned,
          f"loop.max_steps={round(SHARE_OF_SFT * steps)}",
          f"loop.per_device_train_batch_size={ROWS}")  # fmt: skip
    questions = raw / "web" / "conversations-holdout.jsonl"
    luban("eval", "--model", base / "final", "--data", documents, "--baselines", documents,
          "--questions", questions, "--out", out / "eval-base")  # fmt: skip
    luban("eval", "--model", tuned / "final", "--questions", questions, "--out", out / "eval-tuned")
    luban("chat", "--model", tuned / "final", "--max-tokens", 40, "--seed", 1, *_prompts(CHATS))
    chats = raw / "chitchat"
    talks, held_out = chats / "conversations.jsonl", chats / "conversations-holdout.jsonl"
    aligned = _aligned(tuned / "final", talks, held_out, out) if minutes >= ALIGNED_FROM_MINUTES else {}
    before, after = (read_json(out / f"eval-{name}" / "results.json") for name in ("base", "tuned"))
    return {
        "model": str(tuned / "final"),
        **aligned,
        "bits_per_byte": before["bits_per_byte"],
        "before tuning": before["questions"],
        "after tuning": after["questions"],
        "samples": [json.loads(line) for line in (base / "samples.jsonl").read_text("utf-8").splitlines()],
    }


def _aligned(tuned: Path, talks: Path, held_out: Path, out: Path, prefer: str = "question") -> dict[str, Any]:
    """Reward model and PPO: answers that ask something back are preferred, which a program can check."""
    pairs, asked = out / "pairs", out / "pairs-held-out"
    _answers(tuned, talks, pairs, prefer)
    before = _answers(tuned, held_out, asked, prefer)
    luban("reward", "--model", tuned, "--data", pairs / "pairs.jsonl", "--out", out / "reward",
          "loop.max_steps=60", "loop.max_length=512", f"loop.per_device_train_batch_size={ROWS}",
          "loop.compile=false", "optimizer.learning_rate=2e-4")  # fmt: skip
    luban("ppo", "--model", tuned, "--data", pairs / "pairs.jsonl", "--reward", out / "reward" / "final",
          "--validation", asked / "pairs.jsonl", "--out", out / "aligned", f"loop.max_steps={ROUNDS}",
          "loop.minibatch=16", f"optimizer.learning_rate={POLICY_RATE}", f"rollout.max_tokens={LONGEST_ANSWER}",
          "rollout.truncated=penalise", "rollout.truncated_reward=-4")  # fmt: skip
    after = _answers(out / "aligned" / "final", held_out, out / "pairs-aligned", prefer)
    log = [json.loads(line) for line in (out / "aligned" / "log.jsonl").read_text("utf-8").splitlines()]
    rewards = [line["val/reward"] for line in log if "val/reward" in line]
    return {
        "aligned": str(out / "aligned" / "final"),
        "reward": [rewards[0], rewards[-1]],
        "preferred": [before["property"], after["property"]],
    }


def _answers(model: Path, talks: Path, out: Path, prefer: str) -> dict[str, Any]:
    """Pairs of the model's answers, told what share of all its answers is as preferred."""
    told = luban("data", "pairs", "--data", talks, "--model", model, "--prefer", prefer, "--max-rows", 1000,
                 "--max-tokens", LONGEST_ANSWER, "--out", out, "--json", capture=True)  # fmt: skip
    return json.loads(told)


def _corpus(raw: Path, documents: Path) -> None:
    """Simple texts and books as one corpus; the books are HTML, so they go through the longer recipe."""
    for name in (*SIMPLE, *BOOKS):
        luban("fetch", name, "--out", raw / name)
    simple, books = documents.with_name("simple"), documents.with_name("books")
    luban("data", "prepare", "--data", *(raw / name / "documents.jsonl" for name in SIMPLE), "--out", simple)
    luban("data", "prepare", "--data", *(raw / name for name in BOOKS), "--recipe", "books", "--out", books)
    luban("data", "mix", simple, books, "--weights", *WEIGHTS, "--out", documents)


def _plan(out: Path, minutes: float) -> tuple[list[str], int]:
    """The planned settings; kept, as a second trial on this machine would plan a slightly different run."""
    path = out / f"plan-{minutes:g}-minutes.json"
    if not path.is_file():
        command = ("plan", "--minutes", minutes, "--vocab", 4096, "--json")
        command += ("--per-device-train-batch-size", ROWS)
        write_json(path, json.loads(luban(*command, capture=True)))
    plan = read_json(path)
    return plan["settings"], plan["steps"]


def _prompts(prompts: Sequence[str]) -> list[str]:
    return ["--prompt", *prompts]
