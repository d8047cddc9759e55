"""What a run shows of itself: `log.jsonl` always, a progress bar on a terminal, curves as a picture at the end."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from luban.folder import write_text
from luban.training.trackers import Trackers

LOG_FILE = "log.jsonl"
PLAIN_EVERY_S = 10.0
"""Seconds between two lines where stderr is no terminal."""


class Log:
    """Appends one JSON line per report; a resumed run first drops the lines after its checkpoint.

    As a context it keeps `trackers`, who get what it gets, open.
    """

    def __init__(self, out: Path, *, resumed_at: int, trackers: Trackers | None = None) -> None:
        self.path = out / LOG_FILE
        self.resumed_at, self.trackers = resumed_at, trackers
        kept = [line for line in read_log(out) if line["step"] <= resumed_at] if resumed_at else []
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def __enter__(self) -> Self:
        if self.trackers:
            self.trackers.start(resumed_at=self.resumed_at)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.trackers:
            self.trackers.finish()

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Add a line; a number that is not finite, which JSON has no word for, is null."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(
                json.dumps({"step": step, **{name: _json(value) for name, value in values.items()}}) + "\n"
            )
        if self.trackers:
            self.trackers.write(step, values)


def _json(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_log(out: Path) -> list[dict[str, Any]]:
    """All lines of the run's log, oldest first; a line cut by a kill is left out."""
    path = out / LOG_FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


class Bar:
    """The progress bar on stderr, one line of a terminal; without a terminal, one plain line per report."""

    def __init__(self, title: str, *, total: int, done: int, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        self.plain = not console.is_terminal
        self.title, self.total = title, total
        self.printed, self.printed_step = time.monotonic(), done
        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=6),
            MofNCompleteColumn(),
            TextColumn("{task.fields[shown]}"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
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
        """Show the newest numbers beside the bar, or a validation's above it; print few where there is no terminal."""
        shown = "  ".join(show(values[name]) for name, show in SHOWN.items() if name in values)
        if self.plain:
            self._print(step, shown)
        elif "train/loss" in values:
            self.progress.update(self.task, completed=step, shown=shown.replace("  ", " "))
        elif shown:
            self.say(f"{self.title} {step}/{self.total}  {shown}")

    def _print(self, step: int, shown: str) -> None:
        now = time.monotonic()
        if shown and (now - self.printed >= PLAIN_EVERY_S or step in (0, self.total)):
            left = f"  {(self.total - step) * self._seconds_per_step(step, now):.0f} s left" if step else ""
            print(f"{self.title} {step}/{self.total}  {shown}{left}", file=sys.stderr, flush=True)
            self.printed, self.printed_step = now, step

    def _seconds_per_step(self, step: int, now: float) -> float:
        """Time of a step since the last line; the first steps, which compile, are soon forgotten."""
        return (now - self.printed) / max(1, step - self.printed_step)

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self.progress.console.print(text, highlight=False, markup=False, soft_wrap=True)


SHOWN: dict[str, Callable[[float], str]] = {
    "train/loss": "loss {:.3f}".format,
    "train/grad_norm": "|g| {:.2g}".format,
    "train/lr": "lr {:.1e}".format,
    "train/tok_per_sec": "{:,.0f} tok/s".format,
    "train/mfu": "MFU {:.0%}".format,
    "train/memory_mb": lambda megabytes: f"{megabytes / 1000:.1f} GB",
    "val/loss": "val loss {:.3f}".format,
    "val/bpb": "val bpb {:.3f}".format,
    "rollout/reward": "reward {:.3f}".format,
    "rollout/kl": "KL {:.2f}".format,
    "rollout/length": "{:.0f} tokens".format,
    "val/reward": "val reward {:.3f}".format,
    "val/accuracy": "accuracy {:.3f}".format,
    "val/macro_f1": "macro F1 {:.3f}".format,
}
"""What the bar shows, in this order, and how."""


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
            points = [(line["step"], line[name]) for line in log if line.get(name) is not None]
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


class Silent:
    """Stands for the log and the bar where another process speaks for all."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, *_: Any) -> None:
        """Nothing; nor do the others."""

    step = report = say = write
