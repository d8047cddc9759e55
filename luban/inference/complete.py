"""Stage `generate`: continue prompts, and show them with their continuations."""

from __future__ import annotations

import dataclasses
import json
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from annotated_types import Ge

from luban.config import build
from luban.device import DeviceConfig
from luban.errors import ConfigError, DataError
from luban.lm import LM, Generation, OpenLM, Sampling

if TYPE_CHECKING:
    from luban.inference.endpoint import Endpoint
    from luban.inference.local import LocalLM


@dataclass(frozen=True, kw_only=True)
class Config(Sampling, DeviceConfig):
    """Continue text with a model out of a folder in Hugging Face layout; no chat template is applied.

    An encoder-decoder answers the text (translates it, if that is what it learnt) instead of continuing it.
    Without `--prompt` and `--prompts` the prompt is what stands on standard input.
    """

    model: str
    """Model folder; with `--expert` it may be the URL of an OpenAI-compatible endpoint, http://HOST:PORT/v1."""
    expert: str = ""
    """Proxy-tuning: folder of a small tuned model; what tuning did to its logits is added to the model's."""
    anti_expert: str = ""
    """The small model before its tuning."""
    alpha: float = 1.0
    """What the experts' difference is multiplied by."""
    top_logprobs: Annotated[int, Ge(1)] = 20
    """How many candidates an endpoint is asked for; only they can be chosen."""
    prompt: tuple[str, ...] = ()
    """One text to continue, or several."""
    prompts: Path | None = None
    """A file of texts to continue: one a line, or (`*.jsonl`) rows with a `prompt`."""


def run(config: Config, open_lm: OpenLM) -> dict[str, Any]:
    """The continuations with their finish reasons, and the speed, also told on stderr."""
    prompts = [*config.prompt, *(read_prompts(config.prompts) if config.prompts else [])]
    if not prompts:
        prompts = [_standard_input()]
    lm, remote = _open(config, open_lm)
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
        **(_told(remote.told) if remote else {}),
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


def _open(config: Config, open_lm: OpenLM) -> tuple[LM, Endpoint | None]:
    """The model, as proxy-tuning makes it where experts are given, and the endpoint that it then may stand on."""
    remotely = config.model.startswith(("http://", "https://"))
    if not (config.expert or config.anti_expert or remotely or config.alpha != 1):
        return open_lm(config.model), None
    if not (config.expert and config.anti_expert):
        what = "proxy-tuning, with an endpoint or an alpha, needs both --expert and --anti-expert"
        raise ConfigError(what, where="luban generate")
    from luban.inference.endpoint import Endpoint
    from luban.inference.proxy import proxied

    expert, anti_expert = (cast("LocalLM", open_lm(name)) for name in (config.expert, config.anti_expert))
    if not remotely:
        base = cast("LocalLM", open_lm(config.model))
        return proxied(base, expert, anti_expert, alpha=config.alpha), None
    remote = Endpoint(config.model, expert.tokenizer, context=expert.context, top=config.top_logprobs)
    return proxied(remote, expert, anti_expert, alpha=config.alpha), remote


def _told(shares: Sequence[float]) -> dict[str, float]:
    """How much of a remote model's probability its candidates had, on average; the rest could not be chosen."""
    told = sum(shares) / len(shares)
    print(f"the endpoint's candidates had {told:.1%} of its probability on average", file=sys.stderr)
    return {"told": told}


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
