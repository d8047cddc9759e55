"""What a run shows of itself: `log.jsonl` always, a progress bar on a terminal, curves as a picture at the end."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from luban.folder import write_text

LOG_FILE = "log.jsonl"
PLAIN_EVERY_S = 10.0
"""Seconds between two lines where stderr is no terminal."""


class Log:
    """Appends one JSON line per report; a resumed run first drops the lines after its checkpoint."""

    def __init__(self, out: Path, *, resumed_at: int) -> None:
        self.path = out / LOG_FILE
        kept = [line for line in read_log(out) if line["step"] <= resumed_at] if resumed_at else []
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


def read_log(out: Path) -> list[dict[str, Any]]:
    """All lines of the run's log, oldest first; a line cut by a kill is left out."""
    path = out / LOG_FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


class Bar:
    """The progress bar on stderr; where stderr is no terminal, one plain line per report."""

    def __init__(self, title: str, *, total: int, done: int) -> None:
        console = Console(stderr=True)
        self.plain = not console.is_terminal
        self.title, self.total = title, total
        self.printed, self.printed_step = time.monotonic(), done
        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[shown]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=console, disable=self.plain)
        self.task = self.progress.add_task(title, total=total, completed=done, shown="")

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def step(self, step: int) -> None:
        self.progress.update(self.task, completed=step)

    def report(self, step: int, values: Mapping[str, Any]) -> None:
        """Show the newest numbers beside the bar; without a terminal, print them at most every few seconds."""
        shown = "  ".join(_short(name, value) for name, value in values.items() if name in _SHOWN)
        self.progress.update(self.task, completed=step, shown=shown)
        now = time.monotonic()
        if self.plain and shown and (now - self.printed >= PLAIN_EVERY_S or step in (0, self.total)):
            left = f"  {(self.total - step) * self._seconds_per_step(step, now):.0f} s left" if step else ""
            print(f"{self.title} {step}/{self.total}  {shown}{left}", file=sys.stderr, flush=True)
            self.printed, self.printed_step = now, step

    def _seconds_per_step(self, step: int, now: float) -> float:
        """Time of a step since the last line; the first steps, which compile, are soon forgotten."""
        return (now - self.printed) / max(1, step - self.printed_step)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self.progress.console.print(text, highlight=False, markup=False, soft_wrap=True)


_SHOWN = {
    "train/loss": "loss",
    "train/tok_per_sec": "tok/s",
    "train/mfu": "MFU",
    "val/loss": "val loss",
    "val/bpb": "val bpb",
}


def _short(name: str, value: float) -> str:
    if name == "train/mfu":
        return f"MFU {value:.0%}"
    return f"{_SHOWN[name]} {value:,.0f}" if value >= 100 else f"{_SHOWN[name]} {value:.3f}"


def save_curves(out: Path) -> Path:
    """Draw loss, learning rate and gradient norm of the run's log as `curves.png`."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    log = read_log(out)
    figure, panes = plt.subplots(1, 3, figsize=(13, 3.6), constrained_layout=True)
    rows = (("train/loss", "val/loss"), ("train/lr",), ("train/grad_norm",))
    titles = ("loss, nats per token", "learning rate", "gradient norm before clipping")
    for pane, names, title in zip(panes, rows, titles, strict=True):
        for name in names:
            points = [(line["step"], line[name]) for line in log if name in line]
            if points:
                pane.plot(*zip(*points, strict=True), label=name, marker="o" if name == "val/loss" else None)
        pane.set(title=title, xlabel="step")
        pane.grid(alpha=0.3)
    panes[0].legend()
    path = out / "curves.png"
    part = out / ".curves.part.png"
    figure.savefig(part, dpi=110)
    plt.close(figure)
    part.replace(path)
    return path
