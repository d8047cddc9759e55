"""What answers are worth: a program that checks them, a reward model, a function of yours, or a server.

    verify:arithmetic      a verifier of `verify/`
    folder                 a model with one score, as `luban reward` writes it
    file.py:name           def name(rows, answers): a list of numbers, one for each
    http://host/path       POST {"rows": [...], "answers": [...]} -> {"rewards": [...]}

`rows` are the prompts' rows with all their columns, `answers` the texts. Whatever judges, its numbers are counted and
must be finite.
"""

from __future__ import annotations

import importlib.util
import json
import math
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from luban.alignment.reward_model import load_reward, rewards
from luban.alignment.rollout import Answer
from luban.alignment.verify import VERIFIERS
from luban.errors import ConfigError, DataError, MachineError, nearest
from luban.tokenizers.files import FileTokenizer
from luban.tokenizers.files import load as load_tokenizer

SETTING = "setting 'reward'"
TIMEOUT_S = 120


class Judge(Protocol):
    """Whatever tells the worth of answers."""

    def check(self, row: Mapping[str, Any]) -> None:
        """Raise DataError for a row whose answers it could not judge."""
        ...

    def __call__(self, answers: Sequence[Answer]) -> list[float]:
        """A number for each answer."""
        ...


def open_judge(spec: str, tokenizer: FileTokenizer, *, device: torch.device) -> Judge:
    """The judge that the setting `reward` names; raises ConfigError or ModelError where there is none."""
    if spec.startswith("verify:"):
        name = spec.removeprefix("verify:")
        if name not in VERIFIERS:
            raise ConfigError(f"unknown verifier '{name}'; {nearest(name, VERIFIERS)}", where=SETTING)
        return Verified(name)
    if spec.startswith(("http://", "https://")):
        return Remote(spec)
    path, _, name = spec.rpartition(":")
    if path.endswith(".py"):
        return Called(function_in(Path(path), name), spec)
    if Path(spec).is_dir():
        return Modelled(Path(spec), tokenizer, device)
    hint = "verify:NAME, a reward model's folder, file.py:name, or http://..."
    raise ConfigError(f"'{spec}' is nothing that judges answers", where=SETTING, hint=hint)


def judged(judge: Judge, answers: Sequence[Answer]) -> list[float]:
    """The worth of each answer; raises DataError naming the row for a number that is not finite, or too few."""
    rewards = list(judge(answers))
    if len(rewards) != len(answers):
        raise DataError(f"{len(rewards)} rewards came back for {len(answers)} answers", where=SETTING)
    for answer, reward in zip(answers, rewards, strict=True):
        if isinstance(reward, bool) or not isinstance(reward, int | float) or not math.isfinite(reward):
            what = f"the reward of the answer {answer.text[:60]!r} is {reward!r}, not a finite number"
            raise DataError(what, where=answer.prompt.where)
    return [float(reward) for reward in rewards]


class Verified:
    """A verifier of `verify/`."""

    def __init__(self, name: str) -> None:
        self.verifier = VERIFIERS[name]

    def check(self, row: Mapping[str, Any]) -> None:
        """See `Judge.check`."""
        self.verifier.check(row)

    def __call__(self, answers: Sequence[Answer]) -> list[float]:
        return [self.verifier.score(answer.prompt.row, answer.text) for answer in answers]


class Called:
    """A Python function of the user's; what it raises is the user's to see."""

    def __init__(self, function: Callable[[list[Any], list[str]], list[float]], spec: str) -> None:
        self.function, self.spec = function, spec

    def check(self, row: Mapping[str, Any]) -> None:
        """Any row will do: only the function knows."""

    def __call__(self, answers: Sequence[Answer]) -> list[float]:
        return self.function(
            [dict(answer.prompt.row) for answer in answers], [answer.text for answer in answers]
        )


def function_in(path: Path, name: str) -> Callable[..., Any]:
    """The function `name` of the Python file `path`; raises ConfigError where it is not there."""
    if not path.is_file():
        raise ConfigError("no such file", where=path)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None, "a .py file has a loader"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    functions = {key for key, value in vars(module).items() if callable(value) and not key.startswith("_")}
    if name not in functions:
        raise ConfigError(f"there is no function '{name}'; {nearest(name, functions)}", where=path)
    return getattr(module, name)


class Remote:
    """An HTTP endpoint."""

    def __init__(self, url: str) -> None:
        self.url = url

    def check(self, row: Mapping[str, Any]) -> None:
        """Any row will do: only the server knows."""

    def __call__(self, answers: Sequence[Answer]) -> list[float]:
        told = {
            "rows": [answer.prompt.row for answer in answers],
            "answers": [answer.text for answer in answers],
        }
        request = urllib.request.Request(
            self.url, json.dumps(told).encode("utf-8"), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:
                heard = json.loads(reply.read())
        except (urllib.error.URLError, TimeoutError) as error:
            raise MachineError(f"the reward endpoint does not answer: {error}", where=self.url) from None
        except ValueError as error:
            raise DataError(f"the reward endpoint's answer is not JSON: {error}", where=self.url) from None
        if not isinstance(heard, dict) or not isinstance(heard.get("rewards"), list):
            raise DataError("the reward endpoint's answer has no list 'rewards'", where=self.url)
        return heard["rewards"]


class Modelled:
    """A reward model that reads the policy's own tokens, prompt and answer, and scores their last one."""

    def __init__(self, folder: Path, tokenizer: FileTokenizer, device: torch.device) -> None:
        """Raises ConfigError where the folder's tokenizer is not the policy's, ModelError as `load_reward` does."""
        if load_tokenizer(folder).vocabulary() != tokenizer.vocabulary():
            what = "the reward model's tokenizer is not the policy's: the same ids would be other words"
            raise ConfigError(what, where=folder, hint="train the reward model from the policy's own base")
        self.model = load_reward(folder, device=device)

    def check(self, row: Mapping[str, Any]) -> None:
        """Any row will do."""

    def __call__(self, answers: Sequence[Answer]) -> list[float]:
        return rewards(self.model, [[*answer.prompt.ids, *answer.tokens] for answer in answers]).tolist()
