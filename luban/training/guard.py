"""What a run does about a bad batch: a loss or gradient that is not finite, or a loss far above the last ones.

It is asked after the gradients and before anything moves. It stops the run, naming the batch's documents, or skips
the batch and writes it down.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from luban.errors import TrainingError
from luban.folder import write_text
from luban.training.config import GuardConfig

WINDOW = 64
"""Losses that the next one is compared with."""
FEWEST = 16
"""Losses that have to be there before one is called a spike."""
SKIPPED_FILE = "skipped.jsonl"


class Guard:
    """Judges each update by its loss and gradient norm, from the losses of the updates before it."""

    def __init__(self, config: GuardConfig) -> None:
        self.config = config
        self.losses: deque[float] = deque(maxlen=WINDOW)
        self.skipped = 0
        """Updates left out in the whole run."""
        self.in_a_row = 0

    def fault(self, loss: float, grad_norm: float) -> str:
        """What is wrong with an update, in words; nothing if it may be taken."""
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            return f"the loss is {loss}, its gradient norm {grad_norm}"
        if not self.config.spike or len(self.losses) < FEWEST:
            return ""
        mean = fmean(self.losses)
        deviation = max(
            pstdev(self.losses), 0.01 * abs(mean)
        )  # a flat loss must not make every ripple a jump
        if loss <= mean + self.config.spike * deviation:
            return ""
        return (
            f"the loss jumped to {loss:.4f}; the last {len(self.losses)} were {mean:.4f} +- {deviation:.4f}"
        )

    def take(self, loss: float) -> None:
        """Note an update that was made."""
        self.losses.append(loss)
        self.in_a_row = 0

    def refuse(self, fault: str, *, where: str) -> None:
        """Count an update that is left out; raises TrainingError if the run is to stop at this one."""
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        if self.config.action == "stop":
            hint = "lower optimizer.learning_rate, mend these documents, or loop.guard.action=skip"
            raise TrainingError(fault, where=where, hint=hint)
        if self.in_a_row > self.config.most_skipped:
            hint = "the model itself is broken, not a batch: lower optimizer.learning_rate"
            raise TrainingError(f"{fault}: skip number {self.in_a_row} in a row", where=where, hint=hint)

    def state(self) -> dict[str, Any]:
        """JSON-able; `restore` goes on from here."""
        return {"losses": [*self.losses], "skipped": self.skipped, "in_a_row": self.in_a_row}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.losses = deque(state["losses"], maxlen=WINDOW)
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]


class SkippedFile:
    """`skipped.jsonl`: one line per update left out; a resumed run first drops the lines after its checkpoint."""

    def __init__(self, out: Path, *, resumed_at: int) -> None:
        self.path = out / SKIPPED_FILE
        if self.path.is_file():
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("}\n")]
            write_text(self.path, "".join(line for line in whole if json.loads(line)["step"] <= resumed_at))

    def write(self, step: int, fault: str, loss: float, documents: Sequence[str]) -> None:
        """Add the batch of `step`; `documents` are where its rows come from."""
        shown = loss if math.isfinite(loss) else str(loss)
        line = {"step": step, "loss": shown, "fault": fault, "documents": [*documents]}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
