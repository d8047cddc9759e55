"""What kind of task an instruction sets: the measure by which a log of real use and a pool of data are compared.

The kinds follow those by which Ouyang et al. 2022 (arXiv:2203.02155, table 1) count what people ask of an assistant,
with reading, translation, code and mathematics apart. `task_types.yaml` says in patterns how each is put; a linear
model over hashed words learns from them, or from labelled rows of the user's.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from luban.data import linear
from luban.data.packs import packs
from luban.data.row_formats import to_row
from luban.errors import DataError

PATTERNS = Path(__file__).with_name("task_types.yaml")
PER_PATTERN = 60
"""Instructions made of each pattern."""
HEAD, TAIL = 300, 150
"""Characters of a long instruction that are looked at: what is to be done stands before or behind the material."""
ANSWERS = {"output": "-", "completion": "-"}
"""What a log's rows may lack: it is the instruction that counts."""
CHOICE = re.compile(r"\{([^{}]*)\}")
SLOT = re.compile(r"<(\w+)>")
BITS, EPOCHS, STEP = 18, 5, 1.0


@dataclass(frozen=True, kw_only=True)
class TypeClassifier:
    """Tells the kind of each instruction: the one whose model is surest."""

    names: tuple[str, ...]
    models: tuple[linear.LinearModel, ...]

    def classify(self, instructions: Sequence[str]) -> np.ndarray:
        """The number of each instruction's kind in `names`: int64 [instructions]."""
        scored = [
            np.array([model.score(pack) for model in self.models])
            for pack in packs(map(excerpt, instructions))
        ]
        none = np.zeros(0, np.int64)
        return np.concatenate([none, *(scores.argmax(axis=0) for scores in scored)])


def learn_types(instructions: Sequence[str], kinds: Sequence[str], *, seed: int = 0) -> TypeClassifier:
    """A classifier of the kinds that occur, one against the rest each; raises DataError for fewer than two."""
    names = tuple(dict.fromkeys(kinds))
    if len(names) < 2:
        raise DataError(
            f"{len(names)} kind of task is nothing to tell apart", hint="label rows of several types"
        )
    features = linear.Features.of(packs(map(excerpt, instructions)), bits=BITS)
    models = [
        linear.train(
            features,
            np.array([kind == name for kind in kinds]),
            bits=BITS,
            epochs=EPOCHS,
            learning_rate=STEP,
            seed=seed,
        )[0]
        for name in names
    ]
    return TypeClassifier(names=names, models=tuple(models))


@functools.cache
def pattern_instructions(seed: int = 0) -> tuple[tuple[str, str], ...]:
    """Instructions with their kinds, made of the shipped patterns."""
    content = yaml.safe_load(PATTERNS.read_text(encoding="utf-8"))
    chance = np.random.default_rng(seed)

    def one_of(found: re.Match[str], choices: Sequence[str]) -> str:
        return choices[int(chance.integers(len(choices)))] if choices else found[0]

    made: dict[tuple[str, str], None] = {}
    for kind, patterns in content["types"].items():
        for pattern in [pattern for pattern in patterns for _ in range(PER_PATTERN)]:
            text = CHOICE.sub(lambda found: one_of(found, found[1].split("|")), pattern)
            text = SLOT.sub(lambda found: one_of(found, content["slots"].get(found[1], ())), text)
            made[text, kind] = None
    return tuple(made)


def instruction_in(value: Any, where: str, columns: Mapping[str, str] | None = None) -> str:
    """What a row asks: the first user's turn, or the text to be continued; its answer may be missing.

    Raises DataError naming `where` if there is none.
    """
    if isinstance(value, dict):
        value = ANSWERS | {key: item for key, item in value.items() if item is not None}
    row = to_row(value, where=where, columns=columns)
    asked = [message["content"] for message in row.messages if message["role"] == "user"]
    text = asked[0] if asked else row.prompt or row.completion
    if not text.strip() or (row.messages and not asked):
        raise DataError("there is no instruction in this row", where=where)
    return text


def excerpt(instruction: str) -> str:
    """The instruction without the middle of a long one, and without halves of surrogate pairs."""
    if len(instruction) > HEAD + TAIL:
        instruction = f"{instruction[:HEAD]} {instruction[-TAIL:]}"
    return instruction.encode("utf-8", "replace").decode("utf-8")
