"""The figures of `docs/extend.md`: a small model trained on rows of 128 tokens, extended eightfold in every way.

    python benchmarks/extend.py OUT [SEED] [FAMILY]

Half an hour to an hour on one core. The text is the World English Bible. A part of the training tokens are texts with
a hidden number and its question, and a part are sequences that repeat themselves: without these a model of this size
learns no copying in minutes, and could find a number in no text, however short.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from luban.commands import luban
from luban.evaluation.passkey import NEEDLE, QUESTION
from luban.folder import write_text

BEFORE, AFTER = 128, 1024
TUNING_STEPS = 60
DIGITS = 3
METHODS = {"llama": ("none", "linear", "ntk", "dynamic", "yarn"), "bloom": ("alibi",), "gpt2": ("linear",)}
LENGTHS = (128, 256, 512, 1024)
WORDS = {BEFORE: 35, AFTER: 500}
"""Words of the Bible, at most, in a text with a number for rows of so many tokens."""


def main(out: Path, seed: int, family: str) -> None:
    """Make the texts, the model and its longer ones, and measure them; what is there already is kept."""
    texts(out)
    base = out / f"{family}-{seed}"
    train(out, base, seed, family)
    models = [base / "base" / "final"]
    for method in METHODS[family]:
        models += [extend(out, base, seed, method, tuned=tuned) for tuned in (False, True)]
    measure(out, base, models)


def texts(out: Path) -> None:
    """Documents, vocabulary and shards."""
    if not (out / "web").is_dir():
        luban("fetch", "web", "--out", out / "web")
    chapters = [json.loads(line) for line in (out / "web" / "documents.jsonl").open(encoding="utf-8")]
    bible = [row["text"] for row in chapters if row["split"] == "train"]
    makers: dict[str, Callable[[], Iterator[str]]] = {
        "bible": lambda: iter(bible),
        "held-out": lambda: (row["text"] for row in chapters if row["split"] == "holdout"),
        "numbers-of-5": lambda: numbers(bible, 40_000, WORDS[BEFORE], digits=5, seed=1),
        "numbers": lambda: numbers(bible, 40_000, WORDS[BEFORE], digits=DIGITS, seed=11),
        "numbers-1024": lambda: numbers(bible, 3_000, WORDS[AFTER], digits=DIGITS, seed=12),
        "repeats": lambda: repeats(bible, 40_000, seed=5),
    }
    for name, make in makers.items():
        if not (out / f"{name}.jsonl").is_file():
            rows = (json.dumps({"id": f"{name}-{place}", "text": text}) for place, text in enumerate(make()))
            write_text(out / f"{name}.jsonl", "".join(f"{row}\n" for row in rows))
    tokenizer = out / "tokenizer"
    luban("tokenizer", "train", "--data", out / "bible.jsonl", "--vocab", 1024, "--out", tokenizer)
    for name in makers:
        data = ("--data", out / f"{name}.jsonl", "--tokenizer", tokenizer, "--bos", "false")
        luban("data", "shards", *data, "--out", out / "shards" / name)


def numbers(chapters: list[str], count: int, most: int, *, digits: int, seed: int) -> Iterator[str]:
    """Texts of less than `most` words with a number hidden in them, which is asked for and told at the end."""
    chance = random.Random(seed)
    for _ in range(count):
        words = chance.choice(chapters).split()
        size = chance.randrange(most)
        begin = chance.randrange(max(1, len(words) - size))
        words = words[begin : begin + size]
        place, key = chance.randrange(len(words) + 1), str(chance.randrange(10 ** (digits - 1), 10**digits))
        yield " ".join((*words[:place], NEEDLE.format(key=key), *words[place:], QUESTION, f"{key}."))


def repeats(chapters: list[str], count: int, *, seed: int) -> Iterator[str]:
    """A few common words and numbers in any order, twice or more: what to copy, and where from, is all there is."""
    chance = random.Random(seed)
    told = Counter(
        word for text in chapters for word in text.lower().split() if word.isascii() and word.isalpha()
    )
    common = [word for word, _ in told.most_common(1000)]
    for _ in range(count):
        size = chance.randrange(2, 17)
        part = [
            str(chance.randrange(10_000, 100_000)) if chance.random() < 0.35 else chance.choice(common)
            for _ in range(size)
        ]
        yield " ".join(part * max(2, min(5, 34 // size)))


def train(out: Path, base: Path, seed: int, family: str) -> None:
    """The model of short rows: one that begins to copy, and then one that finds numbers."""
    new = (f"architecture.model_type={family}", "architecture.layers=4", "architecture.dim=128",
           "architecture.heads=4", "optimizer.learning_rate=3e-3", "optimizer.warmup_steps=100")  # fmt: skip
    pretrain(out, base / "copying", ("bible", "numbers-of-5", "repeats"), (1, 1, 1), seed, 2500, new)
    more = (
        "--model",
        base / "copying" / "final",
        "optimizer.learning_rate=2e-3",
        "optimizer.warmup_steps=50",
    )
    pretrain(out, base / "base", ("bible", "numbers", "repeats"), (1, 2, 1), seed, 2000, more)


def pretrain(
    out: Path,
    made: Path,
    texts: Sequence[str],
    weights: Sequence[int],
    seed: int,
    steps: int,
    settings: Sequence[object],
) -> None:
    """One run on rows of 128 tokens."""
    luban(
        "pretrain", "--data", *(out / "shards" / name for name in texts), "--weights", *weights,
        "--tokenizer", out / "tokenizer", "--validation", out / "shards" / "held-out", "--out", made,
        "--seed", seed, "--threads", 1, f"loop.max_length={BEFORE}", "loop.per_device_train_batch_size=16",
        f"loop.max_steps={steps}", "loop.compile=false", *settings,
    )  # fmt: skip


def extend(out: Path, base: Path, seed: int, method: str, *, tuned: bool) -> Path:
    """The model with the longer window; the folder of it."""
    made = base / (f"{method}-tuned" if tuned else method)
    words: list[object] = ["--model", base / "base" / "final", "--method", method, "--context", AFTER]
    if tuned:
        words += ["--data", out / "shards" / "bible", out / "shards" / "numbers-1024", "--weights", 1, 1]
        words += [f"loop.max_steps={TUNING_STEPS}", "loop.compile=false"]
        words += ["optimizer.learning_rate=1e-3", "optimizer.warmup_steps=10"]
    luban("extend", *words, "--out", made, "--seed", seed, "--threads", 1)
    return made / "final"


def measure(out: Path, base: Path, models: list[Path]) -> None:
    """Perplexity by length, and numbers found by length and depth."""
    held_out = out / "held-out.jsonl"
    common = ("--lengths", *LENGTHS, "--threads", 1)
    luban("eval", "lengths", "--models", *models, "--data", held_out, *common, "--tokens", 16384,
          "--out", base / "lengths")  # fmt: skip
    found = ("--models", *models[1:], "--filler", held_out, "--samples", 10, "--digits", DIGITS)
    luban("eval", "passkey", *found, *common, "--out", base / "passkey")


if __name__ == "__main__":
    given = dict(enumerate(sys.argv))
    main(Path(sys.argv[1]), int(given.get(2, 0)), given.get(3, "llama"))
