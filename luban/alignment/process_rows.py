"""Answers judged step by step, as the loader takes them: which steps of a solution are right.

    {"prompt": text or messages, "steps": ["2 + 2 = 4", "4 x 3 = 11", ...], "labels": [true, false, ...]}

Each step ends with a line break, and is judged at its last token, the first place from which all of it is seen. One
line of a policy's answer is a step too, so what is learnt here can be asked of it (`reward_model.step_rewards`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from luban.alignment.preferences import OnBadRow, taken
from luban.data.batch import IGNORED
from luban.data.loader import Targeted
from luban.data.rejected import Tally
from luban.errors import DataError, TokenizerError, TrainingError
from luban.tokenizers.base import Tokenizer

LABELS = {"true": 1, "1": 1, "+": 1, "false": 0, "0": 0, "-": 0, "-1": 0}


class Steps:
    """Solutions by number, as the loader takes documents, each step's label at the step's last token."""

    def __init__(self, solutions: Sequence[Targeted]) -> None:
        self.all = list(solutions)

    def __len__(self) -> int:
        return len(self.all)

    def __getitem__(self, number: int, /) -> Targeted:
        return self.all[number]

    @property
    def longest(self) -> int:
        """Tokens of the longest solution with its prompt."""
        return max(len(solution.ids) for solution in self.all)

    def split(self, share: float, *, seed: int, most: int | None = None) -> tuple[Steps, Steps]:
        """Solutions to learn from and a `share` held out, drawn with `seed` from at most `most`."""
        order = np.random.default_rng(seed).permutation(len(self))[:most]
        held = round(share * len(order))
        if held == len(order):
            what = f"{share:.0%} of {len(order)} solutions held out leaves none to learn from"
            raise TrainingError(what, where="setting 'validation'")
        return Steps([self.all[i] for i in order[held:]]), Steps([self.all[i] for i in order[:held]])


def read_steps(
    paths: Sequence[Path], tokenizer: Tokenizer, *, room: int, on_bad_row: OnBadRow = "stop"
) -> tuple[Steps, Tally]:
    """All solutions in `paths` that take at most `room` tokens.

    Raises DataError naming file and line for a row that cannot be used, unless `on_bad_row` is `reject`, and if no
    row can.
    """
    found, tally = taken(
        paths, lambda raw: to_solution(raw.value, tokenizer, where=raw.where, room=room), on_bad_row
    )
    return Steps(found), tally


def to_solution(raw: Any, tokenizer: Tokenizer, *, where: str, room: int) -> Targeted:
    """The ids of a row, and at each step's last token whether it is right; raises DataError naming `where`."""
    steps, labels = _judged_steps(raw, where)
    try:
        ids, ends = step_ids(tokenizer, raw["prompt"], steps)
    except TokenizerError as error:
        raise DataError(error.what, where=where, hint=error.hint) from error
    if len(ids) > room:
        what = f"prompt and steps have {len(ids)} tokens, and there is room for {room}"
        raise DataError(what, where=where, hint="loop.max_length, or on_bad_row=reject")
    targets = np.full(len(ids), IGNORED, np.int64)
    targets[ends] = labels
    return Targeted(np.array(ids, np.int32), targets)


def step_ids(tokenizer: Tokenizer, prompt: Any, steps: Sequence[str]) -> tuple[list[int], list[int]]:
    """The ids of a prompt and the steps that answer it, and the place of each step's last token."""
    if isinstance(prompt, str):
        ids = tokenizer.encode(prompt)
        if tokenizer.adds_bos and tokenizer.bos_id is not None:
            ids.insert(0, tokenizer.bos_id)
    else:
        ids, _ = tokenizer.render(prompt, add_generation_prompt=True)
    ends = []
    for step in steps:
        ids = [*ids, *tokenizer.encode(step.rstrip("\n") + "\n")]
        ends.append(len(ids) - 1)
    return ids, ends


def _judged_steps(raw: Any, where: str) -> tuple[list[str], list[int]]:
    if not isinstance(raw, dict) or any(raw.get(key) is None for key in ("prompt", "steps", "labels")):
        found = ", ".join(raw) if isinstance(raw, dict) else "no object"
        hint = "rows with prompt+steps+labels; kind=answers for pairs"
        raise DataError(f"a row of judged steps has other keys: {found}", where=where, hint=hint)
    steps, labels = raw["steps"], raw["labels"]
    if not isinstance(steps, list) or not steps or not all(isinstance(s, str) and s.strip() for s in steps):
        raise DataError("'steps' is a list of texts, none of them empty", where=where)
    if not isinstance(labels, list) or len(labels) != len(steps):
        raise DataError(f"{len(steps)} steps need as many labels", where=where)
    for label in labels:
        if str(label).lower() not in LABELS:
            raise DataError(f"a label is {label!r}; it says true or false", where=where)
    return steps, [LABELS[str(label).lower()] for label in labels]
