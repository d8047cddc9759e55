"""Stage `data pairs`: preferences that a program can vouch for, with what they were made of on record.

    --model M --prefer P   M answers each prompt several times; the answer with most of the property P against the
                           one with least of it: both are answers to the same prompt, and P is all that was preferred
    (no model)             the row's own answer, which a person gave, against one of like length to another prompt:
                           what is preferred is that it fits

With a model the share of answers that have the property is told too: asked again after `luban dpo` or `luban ppo`,
it says what they have done.
"""

from __future__ import annotations

import bisect
import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from annotated_types import Ge, Gt

from luban.device import DeviceConfig
from luban.errors import DataError

if TYPE_CHECKING:
    from luban.alignment.properties import Property
    from luban.inference.session import ChatLM
    from luban.lm import LM, OpenLM

NEAR = 16
"""Answers of nearly the same length among which a stranger is drawn."""


@dataclass(frozen=True, kw_only=True)
class Config(DeviceConfig):
    """Make preference pairs."""

    data: tuple[Path, ...]
    """Conversations: all before the last answer of each is a prompt."""
    out: Path
    """Folder for pairs.jsonl."""
    model: Path | None = None
    """Model folder that answers the prompts; none compares people's own answers with strangers."""
    prefer: str = "question"
    """What is better in a model's answers: question, shorter, longer, fresh, regex:PATTERN or file.py:name."""
    samples: Annotated[int, Ge(2)] = 4
    """Answers of the model to each prompt."""
    temperature: Annotated[float, Gt(0)] = 1.0
    """Spread of its answers."""
    max_tokens: Annotated[int, Ge(1)] = 64
    """Longest answer; one that has not ended by then is left out, as is a prompt that leaves no room for it."""
    turns: Annotated[int, Ge(1)] = 3
    """Messages of a prompt: the last ones before the answer, beginning with the user's."""
    max_rows: Annotated[int, Gt(0)] | None = None
    """Use only this many prompts, drawn with `seed`."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of what is drawn."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A prompt, and what was said to it."""

    prompt: list[dict[str, str]]
    answer: str


def run(config: Config, open_lm: OpenLM) -> dict[str, Any]:
    """Write `<out>/pairs.jsonl`; returns how many pairs there are and, with a model, the share of the property."""
    from luban import device, folder
    from luban.alignment.properties import property_named

    wanted = property_named(config.prefer)
    inputs = [*config.data, *([config.model] if config.model else [])]
    with folder.stage_folder(config.out, stage="data pairs", config=config, inputs=inputs) as (work, metrics):
        asked = _prompts(config)
        if config.model is None:
            rows, figures = _against_strangers(asked, seed=config.seed)
        else:
            device.start(config, seed=config.seed)
            lm = cast("ChatLM", open_lm(str(config.model)))
            fitting = [one for one in asked if lm.count(one.prompt) + config.max_tokens <= lm.context]  # pyright: ignore[reportArgumentType] - messages
            rows, figures = _by_property(fitting, _answers(lm, fitting, config), wanted)
            figures |= {"too_long": len(asked) - len(fitting)}
        if not rows:
            what = f"no two answers to a prompt differ in '{config.prefer}'"
            raise DataError(what, where=config.data[0], hint="samples, temperature, or another property")
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        folder.write_text(work / "pairs.jsonl", lines)
        metrics.update(figures)
    return metrics


def _prompts(config: Config) -> list[Asked]:
    """The prompts with their own answers, each prompt once, in an order drawn with the seed."""
    found = {json.dumps(one.prompt): one for path in config.data for one in _read(path, config.turns)}
    if len(found) < 2:
        raise DataError(f"{len(found)} conversations with an answer; pairs need two", where=config.data[0])
    asked = list(found.values())
    random.Random(config.seed).shuffle(asked)
    return asked[: config.max_rows]


def _read(path: Path, turns: int) -> Iterator[Asked]:
    from luban.data.conversations import read_conversations

    for row in read_conversations(path):
        spoken = [{"role": str(m["role"]), "content": str(m["content"])} for m in row.messages]
        while spoken and spoken[-1]["role"] != "assistant":
            spoken.pop()
        prompt = spoken[:-1][-turns:]
        while prompt and prompt[0]["role"] != "user":
            prompt = prompt[1:]
        if prompt and prompt[-1]["role"] == "user" and spoken[-1]["content"].strip():
            yield Asked(prompt=prompt, answer=spoken[-1]["content"])


def _answers(lm: LM, asked: Sequence[Asked], config: Config) -> list[list[str]]:
    """The model's finished answers to each prompt, each text once."""
    from luban.lm import Sampling

    # Without a seed of its own: with one, all prompts of a draw would get the same luck.
    sampling = Sampling(max_tokens=config.max_tokens, temperature=config.temperature)
    found: list[list[str]] = [[] for _ in asked]
    for draw in range(config.samples):
        told = lm.chat([one.prompt for one in asked], sampling)  # pyright: ignore[reportArgumentType] - messages
        for said, generation in zip(found, told, strict=True):
            if generation.finish_reason == "stop" and generation.text.strip():
                said.append(generation.text)
        print(f"data pairs: {draw + 1} of {config.samples} answers to each prompt", file=sys.stderr)
    return found


def _by_property(
    asked: Sequence[Asked], answers: Sequence[Sequence[str]], wanted: Property
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """For each prompt the answer with most of the property against the one with least, where they differ."""
    rows, scores = [], list[float]()
    for one, said in zip(asked, answers, strict=True):
        told = [float(wanted(one.prompt, text)) for text in said]
        scores += told
        if told and max(told) > min(told):
            best, worst = told.index(max(told)), told.index(min(told))
            row = {"prompt": one.prompt, "chosen": said[best], "rejected": said[worst]}
            rows.append(row | {"property": [told[best], told[worst]]})
    finished = len(scores)
    share = sum(scores) / finished if finished else 0.0
    return rows, {"prompts": len(asked), "answers": finished, "property": share, "pairs": len(rows)}


def _against_strangers(asked: Sequence[Asked], *, seed: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Each prompt's own answer against one of nearly its length to another prompt, so that length tells nothing."""
    draw = random.Random(seed)
    by_length = sorted(range(len(asked)), key=lambda number: len(asked[number].answer))
    lengths = [len(asked[number].answer) for number in by_length]
    rows = []
    for one in asked:
        place = bisect.bisect_left(lengths, len(one.answer))
        near = by_length[max(0, place - NEAR // 2) : place + NEAR // 2]
        others = [asked[number].answer for number in near if asked[number].answer != one.answer]
        if others:
            rows.append({"prompt": one.prompt, "chosen": one.answer, "rejected": draw.choice(others)})
    longer = sum(len(row["chosen"]) > len(row["rejected"]) for row in rows) / max(1, len(rows))
    return rows, {"prompts": len(asked), "pairs": len(rows), "chosen_is_longer": longer}
