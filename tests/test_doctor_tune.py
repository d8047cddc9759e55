"""`luban doctor --tune`: what was fastest is kept, read by every stage, and only on the machine it is true of."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from luban import device, machine
from luban.cli import main
from luban.machine import Tuned
from luban.native import build
from luban.training import tune


@pytest.fixture(autouse=True)
def temporary_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home without settings; what other tests have read is read again afterwards."""
    build.cache().mkdir(parents=True, exist_ok=True)
    (tmp_path / "native").symlink_to(build.cache())  # compiled libraries stay as they are
    monkeypatch.setenv("LUBAN_HOME", str(tmp_path))
    machine.tuned.cache_clear()
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)
    machine.tuned.cache_clear()


def test_without_a_file_the_defaults_are_in_force() -> None:
    assert machine.tuned() == Tuned()


def test_what_is_kept_is_what_is_read(temporary_home: Path) -> None:
    settings = Tuned(threads=1, chunk_tokens=512, reuse_memory=False, compile_gain=1.1)
    assert machine.keep(settings) == temporary_home / "machine.json"
    assert machine.tuned() == settings


def test_a_stage_starts_with_the_tuned_threads_and_an_explicit_setting_wins() -> None:
    machine.keep(Tuned(threads=1))
    device.start(device.DeviceConfig(), seed=None)
    assert torch.get_num_threads() == 1
    device.start(device.DeviceConfig(threads=2), seed=None)
    assert torch.get_num_threads() == 2


def test_processes_that_share_the_machine_take_their_share_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    machine.keep(Tuned(threads=7))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(device.usable_cpus()))
    device.start(device.DeviceConfig(), seed=None)
    assert torch.get_num_threads() == 1


def test_memory_is_left_alone_where_that_was_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(device, "reuse_memory", lambda: asked.append(True))
    machine.keep(Tuned(reuse_memory=False))
    device.start(device.DeviceConfig(threads=1), seed=None)
    assert not asked
    machine.keep(Tuned())
    device.start(device.DeviceConfig(threads=1), seed=None)
    assert asked


@pytest.mark.parametrize("field", ["processor", "torch"])
def test_the_file_of_another_machine_is_left_alone_and_named(
    field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = machine.keep(Tuned(threads=1))
    content = json.loads(path.read_text("utf-8"))
    content["machine"][field] = "another"
    path.write_text(json.dumps(content), encoding="utf-8")
    assert machine.tuned() == machine.tuned() == Tuned()
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"{path}: not used: measured with another {field}; `luban doctor --tune` measures anew" in told


@pytest.mark.parametrize("content", ["{", "[]", '{"machine": {}}', '{"settings": {"threads": "many"}}'])
def test_a_damaged_file_is_left_alone_and_named(
    content: str, temporary_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (temporary_home / "machine.json").write_text(content, encoding="utf-8")
    assert machine.tuned() == Tuned()
    assert "machine.json: not used" in capsys.readouterr().err


def test_a_tie_goes_to_the_default() -> None:
    assert tune._winner({"0": 1.0, "1": 0.99}, default="0") == "0"
    assert tune._winner({"0": 1.0, "1": 0.9}, default="0") == "1"


def test_doctor_says_what_is_in_force_and_where_it_is_from(
    temporary_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.keep(Tuned(chunk_tokens=512))
    assert main(["doctor", "--threads", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["in_force"]
    assert told["chunk_tokens"] == [512, str(temporary_home / "machine.json")]
    assert told["threads"] == [1, "setting 'threads'"]
    assert told["reuse_memory"] == [True, "default"]


@pytest.mark.slow
def test_tuning_measures_every_choice_and_keeps_a_winner_among_its_candidates(temporary_home: Path) -> None:
    trial = tune.Trial(layers=1, dim=32, vocab=300, rows=2, length=32, rounds=1)
    best, seconds = tune.tune(2, trial=trial, compiling=False, say=lambda _: None)
    assert set(seconds) >= {"reuse_memory", "threads", "chunk_tokens", "precision"}
    assert all(time > 0 for times in seconds.values() for time in times.values())
    assert set(seconds["threads"]) == {"0", "1"}
    assert str(best.chunk_tokens) in seconds["chunk_tokens"]
    assert machine.tuned() == best
    assert [path.name for path in temporary_home.iterdir() if path.name != "native"] == ["machine.json"]


def test_a_tuning_that_is_stopped_leaves_the_old_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine.keep(Tuned(threads=1))

    def stop(*_: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(tune._Worker, "ask", stop)
    with pytest.raises(KeyboardInterrupt):
        tune.tune(2, trial=tune.Trial(), compiling=False, say=lambda _: None)
    assert machine.tuned() == dataclasses.replace(Tuned(), threads=1)
