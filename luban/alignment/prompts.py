"""Prompts out of rows, and the order in which they are asked: each once an epoch, also across a resume.

A row has a `prompt`, text or messages, and may have columns that the reward reads. A text goes through the chat
template as what the user says, or is continued as it stands (`plain`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from luban.data.evaluation_rows import read_values
from luban.errors import DataError, TokenizerError
from luban.tokenizers.files import FileTokenizer


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What the policy is asked."""

    ids: list[int]
    """As the policy reads it, the call for an answer included."""
    row: Mapping[str, Any]
    """All of the row it comes from."""
    where: str
    """File and line."""


def read_prompts(
    paths: Sequence[Path],
    tokenizer: FileTokenizer,
    *,
    window: int,
    plain: bool = False,
    check: Callable[[Mapping[str, Any]], None] = lambda _: None,
) -> list[Prompt]:
    """The prompts of all rows; `check` raises DataError for a row that answers could not be judged by.

    Raises DataError naming file and line for a row without prompt, for one of more than `window` tokens, and for
    the second of two rows that are the same: no prompt is answered twice by accident.
    """
    prompts: list[Prompt] = []
    seen: dict[str, str] = {}
    for path in paths:
        for number, row in read_values(path):
            where = f"{path}:{number}"
            try:
                prompt = _to_prompt(row, where, tokenizer, plain)
                check(prompt.row)
            except (DataError, TokenizerError) as error:
                raise DataError(error.what, where=where, hint=error.hint) from None
            _check_length(prompt, window)
            first = seen.setdefault(repr(sorted(prompt.row.items())), where)
            if first != where:
                raise DataError(f"the row is the same as {first}", where=where, hint="leave one of them out")
            prompts.append(prompt)
    if not prompts:
        raise DataError("there are no prompts", where=", ".join(map(str, paths)))
    return prompts


def _to_prompt(row: Any, where: str, tokenizer: FileTokenizer, plain: bool) -> Prompt:
    asked = row.get("prompt") if isinstance(row, dict) else None
    if not asked or not isinstance(asked, str | list):
        raise DataError("the row has no 'prompt', a text or a list of messages")
    if isinstance(asked, str) and (plain or tokenizer.chat_template is None):
        begins = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
        return Prompt(ids=[*begins, *tokenizer.encode(asked)], row=row, where=where)
    messages = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
    return Prompt(ids=tokenizer.render(messages, add_generation_prompt=True)[0], row=row, where=where)


def _check_length(prompt: Prompt, window: int) -> None:
    if len(prompt.ids) > window:
        what = (
            f"the prompt has {len(prompt.ids)} tokens; the model's window leaves {window} beside the answer"
        )
        raise DataError(what, where=prompt.where, hint="shorten it, or rollout.max_tokens")


class PromptOrder:
    """Gives out prompts in a shuffled order, all of them before any comes again."""

    def __init__(self, prompts: Sequence[Prompt], *, seed: int) -> None:
        self.prompts, self.seed = prompts, seed
        self.given = 0
        """Prompts given out in the whole run."""

    def take(self, count: int) -> list[Prompt]:
        """The next `count` prompts."""
        taken: list[Prompt] = []
        while len(taken) < count:
            epoch, within = divmod(self.given, len(self.prompts))
            order = np.random.default_rng((self.seed, epoch)).permutation(len(self.prompts))
            numbers = order[within : within + count - len(taken)]
            taken += [self.prompts[number] for number in numbers]
            self.given += len(numbers)
        return taken

    def state(self) -> int:
        """How many were given out; `restore` goes on from here."""
        return self.given

    def restore(self, state: int) -> None:
        """Go on where `state` was taken."""
        self.given = state

    @property
    def epochs(self) -> float:
        """Times all prompts were gone through."""
        return self.given / len(self.prompts)
