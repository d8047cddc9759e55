"""A preference that a program can check, taught by `luban dpo` to a small model of real chat, and how far it moved.

    python benchmarks/preferences.py --out runs/preferences [--steps 300 --losses sigmoid ipo kto --seeds 0 1 2]

Every step is a `luban` command: text, tokenizer, shards, `pretrain`, `sft`, `data pairs` (the model's own answers,
those that end with a question preferred), `reward`, `dpo`. Told are the share of held-out prompts' answers that ask
something, before and after, and the KL divergence from the model before, in nats per answer and per token, measured
on the aligned model's own answers. Finished steps are not done again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
from pathlib import Path
from typing import Any

import torch

from luban.commands import luban
from luban.folder import read_json, write_json, write_text
from luban.inference.local import LocalLM, open_lm
from luban.inference.score import score_tokens
from luban.lm import Sampling

SHAPE = ("architecture.layers=3", "architecture.dim=96", "architecture.heads=3", "architecture.context=256")
QUIET = ("loop.compile=false", "loop.save_steps=0", "--threads", "1")
ROOM = ("loop.max_length=320", "loop.per_device_train_batch_size=4", "on_bad_row=drop")
BETA = {"sigmoid": 0.1, "hinge": 0.1, "ipo": 0.1, "kto": 0.1, "simpo": 2.0}
LORA = ("peft.method=lora", "peft.r=16", "peft.target_modules=all-linear", "peft.merge=true")


def main() -> None:
    """Make what is missing, and print a table."""
    asked = _arguments()
    out: Path = asked.out
    base = _assistant(out, asked.steps)
    held = _held_out(out, asked.prompts)
    pairs = out / "pairs"
    luban("data", "pairs", "--data", out / "raw" / "conversations.jsonl", "--model", base, "--out", pairs,
          "--prefer", asked.prefer, "--max-rows", asked.rows, "--samples", 6, "--max-tokens", 40,
          "--threads", 1)  # fmt: skip
    luban("reward", "--model", base, "--data", pairs / "pairs.jsonl", "--out", out / "reward", *QUIET,
          *ROOM, f"loop.max_steps={asked.dpo_steps}", "optimizer.learning_rate=5e-4")  # fmt: skip
    results: dict[str, Any] = {
        "before": _measured(base, base, held, asked.prefer, out / "before.json"),
        "reward_accuracy": read_json(out / "reward" / "report.json")["accuracy"],
    }
    for (loss, method), seed in itertools.product(_variants(asked), asked.seeds):
        name = f"{loss}{'-lora' if method else ''}-{seed}"
        rate = 1e-3 if method else 2e-4
        luban("dpo", "--model", base, "--data", pairs / "pairs.jsonl", "--out", out / name, "--seed", seed, *QUIET,
              *ROOM, f"loss={loss}", f"beta={BETA[loss]}", f"loop.max_steps={asked.dpo_steps}",
              f"optimizer.learning_rate={rate}", *method)  # fmt: skip
        results[name] = _measured(out / name / "final", base, held, asked.prefer, out / f"{name}.json")
    write_json(out / "results.json", results)
    _show(results)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/preferences"))
    parser.add_argument("--prefer", default="question")
    parser.add_argument("--steps", type=int, default=300, help="of pretraining, and again of tuning")
    parser.add_argument("--dpo-steps", type=int, default=150)
    parser.add_argument("--rows", type=int, default=1200, help="prompts that pairs are made for")
    parser.add_argument("--prompts", type=int, default=200, help="held-out prompts")
    parser.add_argument("--losses", nargs="+", default=["sigmoid"])
    parser.add_argument("--lora", action="store_true", help="also with LoRA")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    return parser.parse_args()


def _variants(asked: argparse.Namespace) -> list[tuple[str, tuple[str, ...]]]:
    whole = [(loss, ()) for loss in asked.losses]
    return [*whole, *([("sigmoid", LORA)] if asked.lora else [])]


def _assistant(out: Path, steps: int) -> Path:
    """A small model that chats: pretrained and tuned on the chit-chat conversations."""
    raw, documents = out / "raw", out / "documents"
    luban("fetch", "chitchat", "--out", raw)
    luban("data", "prepare", "--data", raw / "documents.jsonl", "--out", documents)
    luban("tokenizer", "train", "--data", documents, "--vocab", 1024, "--out", out / "tokenizer")
    luban("data", "shards", "--data", documents, "--tokenizer", out / "tokenizer", "--out", out / "shards")
    loop = (*QUIET, f"loop.max_steps={steps}", "loop.per_device_train_batch_size=8", "loop.max_length=128")
    luban("pretrain", "--data", out / "shards", "--tokenizer", out / "tokenizer", "--out", out / "base",
          *SHAPE, *loop)  # fmt: skip
    luban("sft", "--model", out / "base" / "final", "--data", raw / "conversations.jsonl", "--out", out / "tuned",
          *loop, "--max-rows", 4000)  # fmt: skip
    return out / "tuned" / "final"


def _held_out(out: Path, count: int) -> Path:
    """Conversations that no stage has seen, each cut to the first `count` openings."""
    path = out / "held-out.jsonl"
    lines = (out / "raw" / "conversations-holdout.jsonl").read_text("utf-8").splitlines()
    cut = []
    for line in lines:
        messages = json.loads(line)["messages"]
        cut += [{"messages": messages[:place]} for place in range(2, min(len(messages), 9), 2)]
    write_text(path, "".join(json.dumps(row) + "\n" for row in cut[:count]))
    return path


def _measured(model: Path, base: Path, held: Path, prefer: str, path: Path) -> dict[str, Any]:
    """The share of answers with the property, and the KL from `base`, over four answers to each held-out prompt."""
    if path.is_file():
        return read_json(path)
    from luban.alignment.properties import property_named

    policy, reference = (open_lm(str(folder)) for folder in (model, base))
    prompts = [json.loads(line)["messages"][:-1][-3:] for line in held.read_text("utf-8").splitlines()]
    prompts = [prompt for prompt in prompts if prompt[0]["role"] == "user"]
    wanted, found, moved, tokens, shown = property_named(prefer), [], [], 0, []
    torch.manual_seed(7)
    for _ in range(4):
        sampling = Sampling(temperature=1.0, max_tokens=40)
        for prompt, answer in zip(prompts, policy.chat(prompts, sampling), strict=True):
            found.append(float(wanted(prompt, answer.text)))
            moved.append((prompt, answer.tokens))
            tokens += len(answer.tokens)
            shown.append(answer.text)
    ids = [(policy.tokenizer.render(prompt, add_generation_prompt=True)[0], said) for prompt, said in moved]
    ratios = [mine - theirs for mine, theirs in zip(_logps(policy, ids), _logps(reference, ids), strict=True)]
    share = statistics.fmean(found)
    told = {
        "share": share,
        "error": math.sqrt(share * (1 - share) / len(prompts)),
        "kl_per_answer": statistics.fmean(ratios),
        "kl_per_token": sum(ratios) / max(1, tokens),
        "tokens": tokens / len(found),
        "distinct": len(set(shown)) / len(shown),
        "shown": shown[:8],
    }
    write_json(path, told)
    return told


def _logps(lm: LocalLM, ids: list[Any]) -> list[float]:
    """Each answer's log-probability under the model itself."""
    return [score.total for score in score_tokens(lm.model, ids, begin=0)]


def _show(results: dict[str, Any]) -> None:
    print(f"reward model: {results['reward_accuracy']:.1%} of held-out pairs right")
    print("run              share   +-   KL nats/answer  per token  tokens  distinct answers")
    for name, told in results.items():
        if isinstance(told, dict):
            print(
                f"{name:<16} {told['share']:5.1%} {told['error']:5.1%} {told['kl_per_answer']:10.2f}"
                f" {told['kl_per_token']:12.3f} {told['tokens']:9.1f} {told['distinct']:8.1%}"
            )


if __name__ == "__main__":
    main()
