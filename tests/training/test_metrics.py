"""What a run shows of itself fits one line of a terminal, and the seconds it tells add up."""

from __future__ import annotations

import io
import mmap
import re
import time

import pytest
import torch
from rich.console import Console

from luban.training.metrics import Bar
from luban.training.usage import Usage, memory_mb, waiting_share

REPORT = {
    "train/loss": 3.2104,
    "train/grad_norm": 0.853,
    "train/lr": 0.0012345,
    "train/tok_per_sec": 12345.6,
    "train/mfu": 0.451,
    "train/memory_mb": 1234.5,
}


def test_the_bar_shows_everything_in_one_line_of_a_hundred_columns() -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=100, color_system=None)
    with Bar("pretrain", total=20000, done=1200, console=console) as bar:
        bar.report(1234, REPORT)
        bar.progress.refresh()
    line = [part for part in re.split(r"[\r\n]|\x1b\[\S*?[A-Za-z]", shown.getvalue()) if "pretrain" in part][
        -1
    ]
    assert len(line) <= 100
    for part in ("1234/20000", "loss 3.210", "|g| 0.85", "lr 1.2e-03", "12,346 tok/s", "MFU 45%", "1.2 GB"):
        assert part in line, line
    assert "…" not in line


def test_a_validation_is_shown_above_the_bar() -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=100, color_system=None)
    with Bar("sft", total=10, done=0, console=console) as bar:
        bar.report(5, {"val/loss": 1.5})
    assert "sft 5/10  val loss 1.500" in shown.getvalue()


def test_seconds_go_to_the_phase_they_were_spent_in_and_waiting_is_a_share_of_training() -> None:
    usage = Usage()
    with usage.during("loading"):
        time.sleep(0.01)
    with usage.during("learning"):
        time.sleep(0.03)
    with usage.during("saving"):
        time.sleep(0.02)
    usage.count(100)
    speed, seconds = usage.recent()
    assert seconds["loading"] >= 0.01
    assert seconds["learning"] >= 0.03
    assert speed == pytest.approx(100 / (seconds["loading"] + seconds["learning"]))
    assert usage.recent()[1] == {"loading": 0.0, "learning": 0.0, "saving": 0.0}
    assert waiting_share({"loading": 1.0, "learning": 3.0, "saving": 9.0}) == 0.25
    assert usage.totals()["tokens"] == 100


def test_memory_grows_by_what_is_taken() -> None:
    before = memory_mb(torch.device("cpu"))
    with mmap.mmap(-1, 100_000_000) as held:  # not from what the process has kept of freed memory
        held.write(bytes(100_000_000))
        assert memory_mb(torch.device("cpu")) > before + 90
