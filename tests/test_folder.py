"""Output folders: whole or absent, claimed for one run, never silently replaced."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from luban import folder
from luban.errors import ConfigError, MachineError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Two settings."""

    size: int = 1
    """A size."""
    data: Path = Path("data")
    """A path."""


def test_a_stage_folder_appears_whole_with_its_description(tmp_path: Path) -> None:
    source, out = tmp_path / "in.txt", tmp_path / "out"
    source.write_text("words")
    with folder.stage_folder(out, stage="test", config=Settings(), inputs=[source]) as (work, metrics):
        assert not out.exists()
        (work / "result").write_text("done")
        metrics["rows"] = 3
    run = folder.read_json(out / "run.json")
    assert (run["stage"], run["config"]["size"], run["metrics"], run["done"]) == (
        "test",
        1,
        {"rows": 3},
        True,
    )
    assert run["inputs"] == {str(source): folder.fingerprint(source)}
    assert (out / "result").read_text() == "done"


def test_a_failed_stage_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with folder.stage_folder(tmp_path / "out", stage="test", config=Settings()) as (work, _):
            (work / "half").write_text("ha")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_a_finished_stage_is_done_and_a_different_one_is_refused(tmp_path: Path) -> None:
    source, out = tmp_path / "in.txt", tmp_path / "out"
    source.write_text("words")

    def run(size: int) -> None:
        with folder.stage_folder(out, stage="test", config=Settings(size=size), inputs=[source]):
            pass

    run(1)
    with pytest.raises(folder.AlreadyDone):
        run(1)
    with pytest.raises(ConfigError, match=r"different: config\.size"):
        run(2)
    source.write_text("other words")
    with pytest.raises(ConfigError, match="different: inputs"):
        run(1)


def test_a_folder_of_somebody_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "holiday.png").write_bytes(b"picture")
    with pytest.raises(ConfigError, match="not empty and not Luban's"):
        folder.claim(tmp_path, stage="test", config=Settings())
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.png"]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    folder.write_json(path, {"old": 1})

    def failing() -> None:
        with folder.atomic_file(path) as work:
            work.write_text("{half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert json.loads(path.read_text()) == {"old": 1}
    assert [item.name for item in tmp_path.iterdir()] == ["value.json"]


@pytest.mark.parametrize(("content", "durable", "waits"), [("x", True, 1), ("", True, 0), ("x", False, 0)])
def test_only_a_durable_file_with_something_in_it_waits_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, *, durable: bool, waits: int
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(folder.os, "fsync", synced.append)
    folder.write_text(tmp_path / "file", content, durable=durable)
    assert (tmp_path / "file").read_text("utf-8") == content
    assert len(synced) == waits


def test_writing_more_than_is_free_is_refused_beforehand(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="the disk is full"):
        folder.require_space(tmp_path / "new" / "file", 10**18)
    folder.require_space(tmp_path / "new" / "file", 1)


@dataclass
class Rows:
    each: int
    seed: int


@dataclass
class Training:
    loop: Rows


def test_a_free_setting_may_change_while_a_run_is_unfinished_and_not_afterwards(tmp_path: Path) -> None:
    def claim(each: int, seed: int = 0) -> None:
        config = Training(Rows(each, seed))
        folder.claim(tmp_path / "run", stage="test", config=config, free=("loop.each",))

    claim(4)
    claim(2)
    with pytest.raises(ConfigError, match=r"another run \(different: config\.loop\)"):
        claim(2, seed=1)
    folder.finish(tmp_path / "run")
    with pytest.raises(folder.AlreadyDone):
        claim(2)
    with pytest.raises(ConfigError, match="another run"):
        claim(4)
