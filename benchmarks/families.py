"""Families of language models on the same real text in equal time, in the order of their held-out bits per byte.

    python benchmarks/families.py [--seconds 40] [--families ngram lstm llama ...] [--out FOLDER]

The text is the World English Bible that comes with the package, one vocabulary of 4,096 tokens for all. Everything
is a `luban` command on one thread, and time is the processor's, so that a shared machine is fair to all. Two short
trials of a family say how long a step takes, and so how many it makes in the time; n-gram models are counted, once
through the text, in whatever time that takes. All are judged on the same held-out rows. What is finished in FOLDER
is not run again; another number of seconds wants another folder.
"""

from __future__ import annotations

import argparse
import json
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luban.commands import luban

VOCAB, ROWS, LENGTH = 4096, 8, 256
TRIALS = (4, 16)
"""Steps of two runs whose difference tells how long a step takes."""
ALL_ROWS = 10_000
"""More batches than the held-out text has."""
SMALL = {"layers": 2, "dim": 128}
SHAPES: dict[str, dict[str, int]] = {
    "feedforward": {"layers": 1, "dim": 128, "hidden": 256},
    "rnn": {"layers": 1, "dim": 256},
    "gru": {"layers": 1, "dim": 256},
    "lstm": {"layers": 1, "dim": 256},
    "mamba": SMALL,
    "llama": SMALL,
}
COUNTED: dict[str, dict[str, Any]] = {
    **{f"{order}-gram, Kneser-Ney": {"order": order} for order in range(1, 6)},
    "5-gram, Katz": {"order": 5, "estimator": "katz"},
    "5-gram, add 1": {"order": 5, "estimator": "add-k"},
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one model came to."""

    name: str
    bits_per_byte: float
    parameters: int
    tokens: int
    """Tokens seen in training, each time counted."""
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=40.0, help="processor time of each family")
    parser.add_argument("--families", nargs="+", default=["ngram", *SHAPES], choices=["ngram", *SHAPES])
    parser.add_argument("--out", type=Path, default=Path("runs/families"))
    options = parser.parse_args()
    prepare(options.out)
    rows: list[Row] = []
    for family in options.families:
        if family == "ngram":
            rows += [count(options.out, name, settings) for name, settings in COUNTED.items()]
        else:
            rows.append(train(options.out, family, options.seconds))
    rows.sort(key=lambda row: -row.bits_per_byte)
    (options.out / "table.json").write_text(
        json.dumps([vars(row) for row in rows], indent=2) + "\n", encoding="utf-8"
    )
    print(table(rows))


def prepare(out: Path) -> None:
    """The text as documents, a vocabulary, and shards of the training and the held-out part."""
    luban("fetch", "web", "--out", out / "raw")
    luban("data", "prepare", "--data", out / "raw" / "documents.jsonl", "--out", out / "documents")
    luban("tokenizer", "train", "--data", out / "documents", "--out", out / "tokenizer", "--vocab", VOCAB)
    for part, held_out in (("train", "false"), ("held-out", "true")):
        command = ("data", "shards", "--data", out / "documents", "--tokenizer", out / "tokenizer")
        luban(*command, "--holdout", held_out, "--out", out / part)


def count(out: Path, name: str, settings: dict[str, Any]) -> Row:
    """An n-gram model of all the text."""
    folder = out / name.replace(", ", "-").replace(" ", "-")
    results = pretrain(out, folder, "ngram", *(f"counting.{key}={value}" for key, value in settings.items()))
    return Row(
        name=name,
        bits_per_byte=results["val/bpb"],
        parameters=sum(results["ngrams"]),
        tokens=results["tokens"],
        seconds=results["train_seconds"],
    )


def train(out: Path, family: str, seconds: float) -> Row:
    """A model of `family`, trained for as many steps as it makes in `seconds`."""
    shape = [f"architecture.{key}={value}" for key, value in SHAPES[family].items()]
    settings = [*shape, "loop.compile=false", "loop.save_steps=0"]
    step_s = step_seconds(out, family, settings)
    steps = max(1, round(seconds / step_s))
    results = pretrain(out, out / family, family, *settings, f"loop.max_steps={steps}")
    return Row(
        name=family,
        bits_per_byte=results["val/bpb"],
        parameters=results["parameters"],
        tokens=results["tokens"],
        seconds=steps * step_s,
    )


def step_seconds(out: Path, family: str, settings: list[str]) -> float:
    """Processor seconds of one training step; kept in a file, as a second measurement would plan another run."""
    place = out / f"{family}-step.json"
    if not place.is_file():
        used = []
        for steps in TRIALS:
            before = processor_seconds()
            folder = out / f"{family}-{steps}-steps"
            pretrain(out, folder, family, *settings, f"loop.max_steps={steps}", "loop.eval_batches=1")
            used.append(processor_seconds() - before)
        per_step = (used[1] - used[0]) / (TRIALS[1] - TRIALS[0])
        place.write_text(json.dumps(per_step) + "\n", encoding="utf-8")
    return json.loads(place.read_text(encoding="utf-8"))


def processor_seconds() -> float:
    """Processor time of all commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def pretrain(out: Path, folder: Path, family: str, *settings: str) -> dict[str, Any]:
    """What `luban pretrain` tells of one model."""
    command = ("pretrain", "--data", out / "train", "--tokenizer", out / "tokenizer", "--out", folder)
    loop = (
        "threads=1",
        f"loop.per_device_train_batch_size={ROWS}",
        f"loop.max_length={LENGTH}",
        "packing=windows",
    )
    held_out = ("--validation", out / "held-out", f"loop.eval_batches={ALL_ROWS}")
    return json.loads(luban(*command, "--model", family, *loop, *held_out, *settings, "--json", capture=True))


def table(rows: list[Row]) -> str:
    """The rows as Markdown, the worst first."""
    lines = [
        "| model | bits per byte | parameters or n-grams | tokens seen | seconds |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.name} | {row.bits_per_byte:.3f} | {row.parameters:,} | {row.tokens:,} | {row.seconds:.1f} |"
        for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
