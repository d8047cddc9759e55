"""`loop.compile=auto`: compile where a run is long enough, and choose the same again when it goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from luban.folder import read_json, write_json
from luban.machine import Tuned
from luban.training import compiling
from luban.training.compiling import CHOICE, compiled
from luban.training.config import LoopConfig, ParallelConfig
from luban.training.parallel.spread import spread
from luban.training.parallel.world import ALONE
from tests import tiny


def chosen(out: Path, *, steps: int, wanted: bool | str = "auto") -> bool:
    laid_out = spread(tiny.llama(), ALONE, ParallelConfig())
    loop = LoopConfig(compile=wanted, max_length=64)  # pyright: ignore[reportArgumentType] - one of the choices
    return compiled(loop, laid_out, ALONE, out=out, steps=steps, device=torch.device("cpu"))


def test_a_long_run_is_compiled_and_a_short_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "tuned", Tuned)
    assert not chosen(tmp_path / "short", steps=10)
    assert chosen(tmp_path / "long", steps=10_000_000)
    told = read_json(tmp_path / "long" / CHOICE)
    assert told["compile"]
    assert told["saves_s"] > told["takes_s"]
    assert not told["measured"]


def test_what_was_measured_here_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "tuned", lambda: Tuned(compile_gain=0.98, compile_s=9.0))
    assert not chosen(tmp_path / "no-gain", steps=10_000_000)
    assert read_json(tmp_path / "no-gain" / CHOICE)["measured"]


def test_a_run_that_goes_on_keeps_its_choice(tmp_path: Path) -> None:
    write_json(tmp_path / CHOICE, {"compile": True})
    assert chosen(tmp_path, steps=1)
    assert not chosen(tmp_path, steps=1, wanted=False)


def test_a_family_that_is_never_compiled_has_nothing_to_weigh(tmp_path: Path) -> None:
    laid_out = spread(tiny.mamba(), ALONE, ParallelConfig())
    where = {"out": tmp_path, "steps": 10_000_000, "device": torch.device("cpu")}
    assert not compiled(LoopConfig(max_length=64), laid_out, ALONE, **where)
    assert not (tmp_path / CHOICE).exists()
