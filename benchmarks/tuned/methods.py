"""Every way to tune SmolLM2-135M on one real task: what it trains, takes and gives; the table of docs/tuning.md.

The task: is a sentence about a film kind to it or not? A method learns to say "great" or "terrible" after the sentence
(`luban sft`, the answer's tokens alone), each with a learning rate of its own kind, one seed. Held out: sentences no
method has seen, judged by which of the two words the tuned model finds likelier (`luban prompt`). Each method is a
process of its own: its peak, and tokens per second in the median of its logged steps.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.tuned.reviews import Review, sentences
from benchmarks.tuned.turns import ROOT
from luban.fetch import fetch_known
from luban.folder import read_json, write_json, write_text

PAGE = ROOT / "docs" / "tuning.md"
BEGIN, END = "<!-- methods -->", "<!-- end of methods -->"
FEW_STEPS = 8
TEMPLATE = "{text}\nAll in all, it was {answer}"
WORDS = {"positive": "great", "negative": "terrible"}


@dataclass(frozen=True)
class Way:
    """The settings of a run: the method's, and how fast it learns."""

    learning_rate: float
    settings: tuple[str, ...] = ()


WAYS = {
    "all weights": Way(5e-5),
    "last_blocks": Way(2e-4, ("peft.blocks=2",)),
    "child_tuning": Way(5e-5),
    "smallest": Way(1e-3),
    "bitfit": Way(3e-3, ("peft.train_norms=true",)),
    "lora": Way(1e-3),
    "lora_fa": Way(2e-3),
    "relora": Way(1e-3, ("peft.reset_every=20", "peft.rewarm_steps=3")),
    "increlora": Way(1e-2),
    "adalora": Way(2e-3),
    "qlora": Way(5e-4),
    "ia3": Way(1e-2),
    "bottleneck": Way(5e-4, ("peft.r=16",)),
    "prefix_tuning": Way(5e-3, ("peft.num_virtual_tokens=8",)),
    "p_tuning": Way(3e-3, ("peft.num_virtual_tokens=8",)),
    "prompt_tuning": Way(3e-2, ("peft.num_virtual_tokens=8",)),
}
"""By name as `peft.method` takes it; "all weights" has none."""


def run(options: Namespace) -> None:
    """Tune in each way, judge, and write the table into docs/tuning.md if it is to be kept."""
    out = Path(options.out)
    known, asked = sentences(out, train=options.train, test=options.test)
    write_rows(out / "rows.jsonl", known)
    model = Path(options.model) if options.model else fetch_known("smollm2")
    found = {"as it is": {**score(model, out, options), "rows": len(asked)}}
    print(told("as it is", found["as it is"]), flush=True)
    for name in options.methods or WAYS:
        found[name] = {**tune(name, model, out, options), **score(out / name / "final", out, options)}
        print(told(name, found[name]), flush=True)
    write_json(out / "methods.json", found)
    if options.write:
        keep(page(found, options))


def rates(options: Namespace) -> None:
    """Measure speed and peak anew, a few steps of each method, for a table that was learned on a busy machine."""
    out = Path(options.out)
    found: dict[str, dict[str, Any]] = read_json(out / "methods.json")
    model = Path(options.model) if options.model else fetch_known("smollm2")
    few = Namespace(**{**vars(options), "steps": FEW_STEPS})
    (out / "rates").mkdir(exist_ok=True)
    write_text(out / "rates" / "rows.jsonl", (out / "rows.jsonl").read_text(encoding="utf-8"))
    for name in options.methods or WAYS:
        found[name] |= tune(name, model, out / "rates", few)
        print(told(name, found[name]), flush=True)
    write_json(out / "methods.json", found)
    if options.write:
        keep(page(found, options))


def write_rows(path: Path, reviews: list[Review]) -> None:
    """The task as rows for `luban sft`."""
    before, _, _ = TEMPLATE.partition(" {answer}")
    rows = [
        {"prompt": before.replace("{text}", row["text"]), "completion": f" {WORDS[row['label']]}"}
        for row in reviews
    ]
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def tune(name: str, model: Path, out: Path, options: Namespace) -> dict[str, Any]:
    """What one method trains and takes; a finished run of the same settings is not run again."""
    way = WAYS[name]
    words = ["sft", "--model", str(model), "--data", str(out / "rows.jsonl"), "--out", str(out / name)]
    words += [
        "--validation",
        "0",
        f"loop.max_steps={options.steps}",
        "loop.max_length=256",
        "loop.compile=false",
    ]
    words += [
        "loop.logging_steps=1",
        "loop.per_device_train_batch_size=2",
        f"loop.save_steps={options.steps}",
    ]
    words += [f"optimizer.learning_rate={way.learning_rate}", "optimizer.warmup_steps=5"]
    words += [] if name == "all weights" else [f"peft.method={name}", *way.settings]
    words += ["--threads", str(options.threads), "--json"]
    done = (out / name / "final").is_dir()
    results, peak_mb = luban(*words)
    if not done:
        write_json(out / f"{name}.peak.json", {"mb": peak_mb})
    with (out / name / "log.jsonl").open(encoding="utf-8") as lines:
        rates = [
            entry["train/tok_per_sec"] for entry in map(json.loads, lines) if "train/tok_per_sec" in entry
        ]
    return {
        "trained": results.get("trained_parameters") or count(model),
        "peak_mb": read_json(out / f"{name}.peak.json")["mb"],
        "tokens_per_s": statistics.median(rates),
    }


def score(model: Path, out: Path, options: Namespace) -> dict[str, float]:
    """Share of the held-out sentences judged rightly, and the macro F1."""
    words = ["prompt", "--model", str(model), "--data", str(out / "test.jsonl"), "--template", TEMPLATE]
    words += [f"--words.{label}={word}" for label, word in WORDS.items()]
    words += ["--calibration", "none", "--threads", str(options.threads), "--json"]
    figures = luban(*words)[0]["figures"]["uncalibrated"]
    return {name: figures[name] for name in ("accuracy", "low", "high", "macro_f1")}


def luban(*words: str) -> tuple[dict[str, Any], float]:
    """A stage's results, and the peak of its process in MB."""
    with subprocess.Popen(
        [sys.executable, "-m", "luban", *words], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        told = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"luban {' '.join(words)}: exit code {process.returncode}")
    return json.loads(told), usage.ru_maxrss / 1024


def count(model: Path) -> int:
    """Weights of a model."""
    from luban.models import hf
    from luban.training.sizes import count as counted

    return counted(hf.load_config(model))


def told(name: str, figures: dict[str, Any]) -> str:
    """A row of the table."""
    interval = f"{figures['accuracy']:.1%} ({figures['low']:.0%} to {figures['high']:.0%})"
    if "trained" not in figures:
        return f"| {name} | 0 | | | {interval} |"
    trained = f"{figures['trained']:,}"
    return (
        f"| `{name}` | {trained} | {figures['peak_mb']:,.0f} | {figures['tokens_per_s']:.0f} | {interval} |"
    )


def page(found: dict[str, dict[str, Any]], options: Namespace) -> str:
    """The table with what it was measured on."""
    head = "| method | trained weights | peak MB | tokens/s | right (95 %) |\n|---|---:|---:|---:|---|\n"
    rows = "\n".join(told(name, figures) for name, figures in found.items())
    asked = found["as it is"]["rows"]
    trained = f"{options.steps} steps of 2 rows of 256 packed tokens, {options.threads} threads"
    return f"{head}{rows}\n\n{trained}; {asked} sentences held out.\n"


def keep(table: str) -> None:
    """Put the table between the marks of docs/tuning.md."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN + "\n")
    write_text(PAGE, f"{before}{BEGIN}\n\n{table}\n{END}{rest.split(END)[1]}")
