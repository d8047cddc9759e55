"""Trackers get what the log gets, and a missing one stops a run before it starts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from luban.errors import MachineError
from luban.training.metrics import Log
from luban.training.trackers import TRACKERS, Trackers


def log_a_run(name: str, out: Path) -> None:
    """Six lines and a picture; interrupted after step 3, of which a step came after the checkpoint at 2."""
    out.mkdir()
    (out / "run.json").write_text(json.dumps({"config": {"seed": 7}}), encoding="utf-8")
    for resumed_at, steps in ((0, (0, 1, 2, 3)), (2, (3, 4))):
        trackers = Trackers((name,), out)
        with Log(out, resumed_at=resumed_at, trackers=trackers) as log:
            for step in steps:
                log.write(step, {"train/loss": 10.0 - step, "train/bad": float("nan")})
            trackers.image(picture(out))


def picture(out: Path) -> Path:
    from matplotlib.pyplot import imsave

    imsave(out / "curves.png", np.zeros((4, 6, 3)))
    return out / "curves.png"


def test_tensorboard_shows_every_step_once_the_settings_and_the_picture(tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="pip install tensorboard"
    )
    log_a_run("tensorboard", tmp_path / "run")
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [
        (step, 10.0 - step) for step in range(5)
    ]
    assert "train/bad" not in events.Tags()["scalars"]
    assert "seed" in str(events.Tensors("settings/text_summary"))
    assert events.Images("curves")[0].width == 6


def test_mlflow_keeps_the_run_in_its_folder_and_goes_on_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="pip install mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    log_a_run("mlflow", tmp_path / "run")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'run' / 'mlflow' / 'runs.db'}")
    (experiment,) = [found for found in client.search_experiments() if found.name == "luban"]
    (run,) = client.search_runs([experiment.experiment_id])
    history = {point.step: point.value for point in client.get_metric_history(run.info.run_id, "train/loss")}
    assert history == {step: 10.0 - step for step in range(5)}
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == {"curves.png", "settings.json"}


def test_wandb_writes_its_run_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    log_a_run("wandb", tmp_path / "run")
    assert len(list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))) == 2


def test_swanlab_writes_its_run_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("swanlab", reason="pip install swanlab")
    monkeypatch.setenv("SWANLAB_MODE", "offline")
    log_a_run("swanlab", tmp_path / "run")
    assert list((tmp_path / "run" / "swanlog").iterdir())


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_package_is_told_with_what_to_install(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard" if name == "tensorboard" else name, None)
    with pytest.raises(
        MachineError, match=rf"report_to'.*'{name}' cannot be imported(.|\n)*pip install {name}"
    ):
        Trackers((name,), tmp_path)


def test_numbers_that_json_has_no_word_for_are_null_in_the_log(tmp_path: Path) -> None:
    Log(tmp_path, resumed_at=0).write(1, {"train/loss": float("inf"), "train/lr": 0.5})

    def refuse(word: str) -> Any:
        raise AssertionError(word)

    line = (tmp_path / "log.jsonl").read_text(encoding="utf-8")
    assert json.loads(line, parse_constant=refuse) == {"step": 1, "train/loss": None, "train/lr": 0.5}
