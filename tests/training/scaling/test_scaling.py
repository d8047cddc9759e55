"""The stage `scaling` on real text: it learns, shares beginnings exactly, goes on where it was, answers later."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from luban.cli import main
from luban.errors import ConfigError, DataError
from luban.inference.local import open_lm
from luban.training import pretrain, scaling
from luban.training.scaling import grid, revisit
from luban.training.scaling.config import Config
from tests.conftest import Workspace

VOCAB = 384


def config_for(workspace: Workspace, out: Path, **changes: Any) -> Config:
    config = Config(
        data=(workspace.shards,),
        tokenizer=workspace.tokenizer,
        validation=workspace.held_out,
        out=out,
        sizes=("1x16", "1x32", "1x48"),
        flops=(4e8, 1.6e9),
        learning_rate=2e-3,
        warmup_steps=4,
        max_length=32,
        eval_batches=8,
        resamples=20,
        threads=1,
    )
    return dataclasses.replace(config, **changes)


def planned(config: Config) -> list[grid.Cell]:
    return grid.cells(config, grid.sizes(config, VOCAB))


def weights(out: Path) -> bytes:
    return (out / "final" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def trained(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, dict[str, Any]]:
    config = config_for(workspace, tmp_path_factory.mktemp("scaling") / "grid")
    return config, scaling.run(config, open_lm)


@pytest.mark.slow
def test_more_compute_gives_every_size_a_lower_loss(trained: tuple[Config, dict[str, Any]]) -> None:
    cells = trained[1]["cells"]
    assert len(cells) == 6
    for short, long in zip(cells[::2], cells[1::2], strict=True):
        assert short["size"] == long["size"]
        assert long["loss"] < short["loss"] - 0.03
        assert long["flops"] == pytest.approx(4 * short["flops"], rel=0.1)
    assert trained[1]["frontier_falls"]


@pytest.mark.slow
def test_a_run_that_went_on_from_a_shorter_one_equals_one_from_scratch(
    trained: tuple[Config, dict[str, Any]], tmp_path: Path
) -> None:
    config = trained[0]
    short, long = planned(config)[:2]
    alone = dataclasses.replace(grid.run_config(long, config), out=tmp_path / "alone")
    results = pretrain.run(alone, open_lm)
    shared = config.out / "cells" / long.name
    assert weights(shared) == weights(tmp_path / "alone")
    assert results["val/loss"] == trained[1]["cells"][1]["loss"]
    first_line = (shared / "log.jsonl").read_text("utf-8").splitlines()[0]
    assert json.loads(first_line)["step"] > short.stable  # it did not take these steps itself


@pytest.mark.slow
def test_a_finished_grid_is_not_trained_again_and_a_new_size_trains_only_its_runs(
    trained: tuple[Config, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    config, results = trained
    again = scaling.run(config, open_lm)
    assert "6 runs, 0 to train" in capsys.readouterr().err
    assert again == results
    more = scaling.run(dataclasses.replace(config, sizes=(*config.sizes, "2x16")), open_lm)
    assert "8 runs, 2 to train" in capsys.readouterr().err
    measured = [{name: cell[name] for name in cell if name != "law_loss"} for cell in results["cells"]]
    kept = [cell for cell in more["cells"] if cell["size"] != "2x16"]
    assert [{name: cell[name] for name in cell if name != "law_loss"} for cell in kept] == measured
    scaling.run(config, open_lm)  # leaves scaling.json as the other tests expect it


@pytest.mark.slow
def test_runs_of_other_settings_are_not_taken_for_these(trained: tuple[Config, dict[str, Any]]) -> None:
    with pytest.raises(ConfigError, match=r"holds another run \(different: config\.optimizer\)"):
        scaling.run(dataclasses.replace(trained[0], learning_rate=1e-3), open_lm)


@pytest.mark.slow
def test_a_killed_grid_goes_on_to_the_same_losses(
    workspace: Workspace, trained: tuple[Config, dict[str, Any]], tmp_path: Path
) -> None:
    config = config_for(workspace, tmp_path / "cut")
    words = ["--data", str(config.data[0]), "--tokenizer", str(config.tokenizer), "--out", str(config.out)]
    words += ["--validation", str(config.validation), "--sizes", *config.sizes, "--flops", "4e8", "1.6e9"]
    words += ["learning_rate=2e-3", "warmup_steps=4", "max_length=32"]
    words += ["eval_batches=8", "resamples=20", "threads=1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "luban", "scaling", *words],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    second = config.out / "cells" / planned(config)[1].name / "log.jsonl"
    while process.poll() is None and not (second.is_file() and second.stat().st_size):
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -9
    assert not (config.out / scaling.RESULTS).exists()
    results = scaling.run(config, open_lm)
    assert [cell["loss"] for cell in results["cells"]] == [cell["loss"] for cell in trained[1]["cells"]]
    assert results["law"] == trained[1]["law"]


@pytest.mark.slow
def test_a_grid_leaves_pictures_a_log_and_its_figures(trained: tuple[Config, dict[str, Any]]) -> None:
    out = trained[0].out
    assert (out / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (out / "scaling.svg").read_text("utf-8")
    assert len((out / "log.jsonl").read_text("utf-8").splitlines()) == 6
    kept = json.loads((out / "scaling.json").read_text("utf-8"))
    assert kept["law"] == trained[1]["law"]
    assert kept["settings"]["learning_rate"] == 2e-3
    with_checkpoints = {path.parent.name for path in (out / "cells").glob("1x*/checkpoints")}
    assert with_checkpoints == {
        cell.name for cell in planned(trained[0])[1::2]
    }  # the longest run of each size


@pytest.mark.slow
def test_a_grid_is_shown_again_without_training(
    trained: tuple[Config, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    out, results = trained[0].out, trained[1]
    assert revisit.run(revisit.Config(out=out))["law"] == results["law"]
    assert main(["scaling", "show", str(out), "--markdown", "--budget", "1e18"]) == 0
    page = capsys.readouterr().out
    assert page.count("| 1x32 |") >= 2
    assert "**What to train for 1e+18 FLOPs**" in page
    assert "times beyond the grid: a guess" in page
    assert main(["scaling", "show", str(out), "--minutes", "1", "--json"]) == 0
    asked = json.loads(capsys.readouterr().out)["for_minutes"]
    assert asked["flops"] == pytest.approx(6 * asked["weights"]["value"] * asked["tokens"]["value"])
    assert main(["scaling", "show", str(out)]) == 0
    assert "alpha" in capsys.readouterr().out


def test_what_cannot_be_trained_is_told_before_training(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for(workspace, tmp_path / "none")
    with pytest.raises(ConfigError, match="'bert' is not trained on next tokens"):
        scaling.run(dataclasses.replace(config, model_type="bert"), open_lm)
    with pytest.raises(DataError, match="no token shards"):
        scaling.run(dataclasses.replace(config, validation=tmp_path), open_lm)
    with pytest.raises(DataError, match="no such file"):
        revisit.run(revisit.Config(out=tmp_path))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="a grid is trained by one process, and torchrun started 2"):
        scaling.run(config, open_lm)
    assert not config.out.exists()
