"""Stage `generate`: continue prompts, and show them with their continuations."""

from __future__ import annotations

import dataclasses
import json
import secrets
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luban.config import build
from luban.device import DeviceConfig
from luban.errors import ConfigError, DataError
from luban.lm import Generation, OpenLM, Sampling


@dataclass(frozen=True, kw_only=True)
class Config(Sampling, DeviceConfig):
    """Continue text with a model out of a folder in Hugging Face layout; no chat template is applied.

    An encoder-decoder answers the text (translates it, if that is what it learnt) instead of continuing it.
    Without `--prompt` and `--prompts` the prompt is what stands on standard input.
    """

    model: str
    """Model folder."""
    prompt: tuple[str, ...] = ()
    """One text to continue, or several."""
    prompts: Path | None = None
    """A file of texts to continue: one a line, or (`*.jsonl`) rows with a `prompt`."""


def run(config: Config, open_lm: OpenLM) -> dict[str, Any]:
    """The continuations with their finish reasons, and the speed, also told on stderr."""
    prompts = [*config.prompt, *(read_prompts(config.prompts) if config.prompts else [])]
    if not prompts:
        prompts = [_standard_input()]
    lm = open_lm(config.model)
    sampling = sampling_of(config)
    began = time.perf_counter()
    generations = lm.generate(prompts, sampling)
    seconds = time.perf_counter() - began
    tokens = sum(len(generation.tokens) for generation in generations)
    print(f"{tokens} tokens in {seconds:.2f} s: {tokens / seconds:.1f} tokens/s", file=sys.stderr)
    rows = [_row(prompt, made) for prompt, made in zip(prompts, generations, strict=True)]
    return {
        "model": lm.name,
        "seed": sampling.seed,
        "continues": getattr(lm, "continues", True),
        "generations": rows,
        "tokens_per_s": tokens / seconds,
    }


def show(results: dict[str, Any]) -> None:
    """Print each prompt with its continuation, or its answer below; why it ended goes to stderr."""
    from rich.console import Console
    from rich.text import Text

    console, notes = Console(highlight=False), Console(stderr=True, highlight=False)
    between = "" if results["continues"] else "\n"
    for row in results["generations"]:
        console.print(Text(row["prompt"] + between, style="dim") + Text(row["text"]), soft_wrap=True)
        notes.print(f"[dim]({row['tokens']} tokens, ended by {row['finish_reason']})[/dim]")


def sampling_of(config: Sampling) -> Sampling:
    """The sampling part of a stage's flat config; without a seed it gets a fresh one, so that it has a name."""
    names = [field.name for field in dataclasses.fields(Sampling)]
    sampling = build(Sampling, {name: getattr(config, name) for name in names}, where="sampling")
    if sampling.seed is None:
        sampling = dataclasses.replace(sampling, seed=secrets.randbelow(2**32))
    return sampling


def read_prompts(path: Path) -> list[str]:
    """The prompts in a file: its lines, or in a `.jsonl` file the rows' `prompt`.

    Raises DataError if the file is missing or empty, or naming the line of a row without a prompt.
    """
    if not path.is_file():
        raise DataError("no such file of prompts", where=path)
    lines = path.read_text(encoding="utf-8").splitlines()
    if path.suffix == ".jsonl":
        prompts = [
            _prompt_in(line, where=f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()
        ]
    else:
        prompts = [line for line in lines if line.strip()]
    if not prompts:
        raise DataError("the file holds no prompt", where=path)
    return prompts


def _prompt_in(line: str, *, where: str) -> str:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"not valid JSON: {error.msg} at column {error.colno}", where=where) from None
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
        raise DataError("a row needs a string 'prompt'", where=where)
    return row["prompt"]


def _standard_input() -> str:
    text = "" if sys.stdin.isatty() else sys.stdin.read().rstrip("\n")
    if not text:
        raise ConfigError("there is no prompt", where="luban generate", hint="--prompt TEXT")
    return text


def _row(prompt: str, made: Generation) -> dict[str, Any]:
    row = {"prompt": prompt, "text": made.text, "finish_reason": made.finish_reason}
    row |= {"tokens": len(made.tokens), "prompt_tokens": made.prompt_tokens}
    return row | ({"logps": made.logps} if made.logps else {})
