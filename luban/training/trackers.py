"""Programs that show a run's log as it grows: TensorBoard, Weights & Biases, MLflow, SwanLab.

Each is a small `Tracker`; `log.jsonl` stays what the toolkit itself reads. A resumed run goes on in the same
place, by the run's id in `trackers.json`.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from luban.errors import MachineError
from luban.folder import RUN_FILE, read_json, write_json

RUNS_FILE = "trackers.json"
PROJECT = "luban"


class Tracker(Protocol):
    """Where values go as they are logged."""

    def start(self, config: Mapping[str, Any], *, resumed_at: int) -> None:
        """Open the run, new (`resumed_at` 0) or the one that goes on after that step; `config` is its settings."""
        ...

    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def image(self, path: Path) -> None:
        """Show the PNG at `path` under its file's name."""
        ...

    def finish(self) -> None:
        """Send what waits and close the run."""
        ...


class TensorBoard:
    """Event files in `<out>/tensorboard/`; `tensorboard --logdir OUT` shows them."""

    def __init__(self, out: Path, _run: str) -> None:
        self.folder = out / "tensorboard"
        self.writer_class = _module("torch.utils.tensorboard", package="tensorboard").SummaryWriter

    def start(self, config: Mapping[str, Any], *, resumed_at: int) -> None:
        self.step = resumed_at
        self.writer = self.writer_class(str(self.folder), purge_step=resumed_at + 1 if resumed_at else None)
        self.writer.add_text("settings", f"```\n{json.dumps(config, indent=2)}\n```", resumed_at)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self.step = step
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def image(self, path: Path) -> None:
        from matplotlib.pyplot import imread

        self.writer.add_image(path.stem, imread(path), self.step, dataformats="HWC")

    def finish(self) -> None:
        self.writer.close()


class Wandb:
    """A run of the project `luban` at Weights & Biases; $WANDB_MODE=offline keeps it in `<out>/wandb/`."""

    def __init__(self, out: Path, run: str) -> None:
        self.out, self.run_id, self.wandb = out, run, _module("wandb")

    def start(self, config: Mapping[str, Any], *, resumed_at: int) -> None:
        del resumed_at  # wandb itself leaves out steps that it has
        self.run = self.wandb.init(
            project=PROJECT,
            name=self.out.name,
            id=self.run_id,
            resume="allow",
            dir=self.out,
            config=dict(config),
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def image(self, path: Path) -> None:
        self.run.log({path.stem: self.wandb.Image(str(path))})

    def finish(self) -> None:
        self.run.finish()


class MLflow:
    """A run of the experiment `luban` where $MLFLOW_TRACKING_URI says, else in `<out>/mlflow/`."""

    def __init__(self, out: Path, run: str) -> None:
        self.out, self.run_id = out, run
        self.mlflow = _module("mlflow")

    def start(self, config: Mapping[str, Any], *, resumed_at: int) -> None:
        del resumed_at  # what is logged again for a step replaces nothing, but is the same
        own = None if os.environ.get("MLFLOW_TRACKING_URI") else (self.out / "mlflow").absolute()
        if own is not None:
            own.mkdir(exist_ok=True)
        client = self.client = self.mlflow.MlflowClient(own and f"sqlite:///{own / 'runs.db'}")
        known = client.get_experiment_by_name(PROJECT)
        experiment = known.experiment_id if known else client.create_experiment(PROJECT, own and own.as_uri())
        ours = client.search_runs([experiment], f"tags.luban = '{self.run_id}'")
        made = (
            ours[0]
            if ours
            else client.create_run(experiment, tags={"luban": self.run_id}, run_name=self.out.name)
        )
        self.run = made.info.run_id
        if not ours:
            client.log_dict(self.run, dict(config), "settings.json")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.client.log_metric(self.run, name, value, step=step)

    def image(self, path: Path) -> None:
        self.client.log_artifact(self.run, str(path))

    def finish(self) -> None:
        self.client.set_terminated(self.run)


class SwanLab:
    """A run of the project `luban` at SwanLab; $SWANLAB_MODE=local keeps it in `<out>/swanlog/`."""

    def __init__(self, out: Path, run: str) -> None:
        self.out, self.run_id, self.swanlab = out, run, _module("swanlab")

    def start(self, config: Mapping[str, Any], *, resumed_at: int) -> None:
        del resumed_at
        self.run = self.swanlab.init(
            project=PROJECT,
            experiment_name=self.out.name,
            id=self.run_id,
            resume="allow",
            logdir=str(self.out / "swanlog"),
            config=dict(config),
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def image(self, path: Path) -> None:
        self.run.log({path.stem: self.swanlab.Image(str(path))})

    def finish(self) -> None:
        self.run.finish()


TRACKERS: dict[str, Callable[[Path, str], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "mlflow": MLflow,
    "swanlab": SwanLab,
}


class Trackers:
    """All trackers of a run as one."""

    def __init__(self, names: Sequence[str], out: Path) -> None:
        """Raises MachineError for a tracker whose package is missing."""
        self.out = out
        self.each = [TRACKERS[name](out, _run_id(out)) for name in names]

    def start(self, *, resumed_at: int) -> None:
        """Open the runs with the settings in the folder's `run.json`."""
        described = self.out / RUN_FILE
        config = read_json(described)["config"] if described.is_file() else {}
        for tracker in self.each:
            tracker.start(config, resumed_at=resumed_at)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Send the numbers among `values`."""
        numbers = {
            name: value
            for name, value in values.items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
        for tracker in self.each:
            tracker.write(step, numbers)

    def image(self, path: Path) -> None:
        """Show a picture in all of them."""
        for tracker in self.each:
            tracker.image(path)

    def finish(self) -> None:
        """Close all runs."""
        for tracker in self.each:
            tracker.finish()


def _run_id(out: Path) -> str:
    """What trackers know the run in `out` by, now and after an interruption; 21 letters and digits, as SwanLab asks."""
    path = out / RUNS_FILE
    if not path.is_file():
        write_json(path, {"run": secrets.token_hex(11)[:21]})
    return read_json(path)["run"]


def _module(name: str, *, package: str | None = None) -> Any:
    """The imported module; raises MachineError with what to install."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        wanted = package or name
        what = f"'{wanted}' cannot be imported ({error})"
        raise MachineError(what, where="setting 'loop.report_to'", hint=f"pip install {wanted}") from None
