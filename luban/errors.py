"""What a user can cause, as one tree; everything else is our own fault and keeps its traceback.

    LubanError (ValueError)      exit code 2: the message says what, where and what to do
    ├── ConfigError              a setting: unknown, of the wrong type, out of range, contradictory
    ├── DataError                a file of text or rows: missing, empty, malformed (file:line)
    ├── TokenizerError           a tokenizer folder or chat template
    ├── ModelError               a model folder: unknown family, missing or misshaped weight
    ├── CheckpointError          a training checkpoint: corrupted, of another run
    ├── PromptError              a request: longer than the window, invalid sampling value
    ├── TrainingError            a run that cannot go on: no trainable label, NaN
    └── MachineError             the machine: disk full, a missing extra, no network

`assert` is for our own invariants. Nothing is caught that cannot be handled where it is caught.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LubanError(ValueError):
    """A user's mistake, told as `what`, the place `where` it was met, and a `hint` what to do.

    `str(error)` is the whole message: one line, plus a second one for the hint.
    """

    def __init__(self, what: str, *, where: object = None, hint: str | None = None) -> None:
        self.what, self.where, self.hint = what, where, hint
        place = f"{where}: " if where is not None else ""
        advice = f"\n  try: {hint}" if hint else ""
        super().__init__(f"{place}{what}{advice}")


class ConfigError(LubanError): ...


class DataError(LubanError): ...


class TokenizerError(LubanError): ...


class ModelError(LubanError): ...


class CheckpointError(LubanError): ...


class PromptError(LubanError): ...


class TrainingError(LubanError): ...


class MachineError(LubanError): ...


def nearest(name: str, choices: Iterable[str]) -> str:
    """A clause for an error message: the closest choice if one is close, else all of them.

    >>> nearest("learnin_rate", ["learning_rate", "seed"])
    "did you mean 'learning_rate'?"
    """
    known = sorted(choices)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"choose from: {', '.join(known)}" if known else "nothing can be chosen here"
