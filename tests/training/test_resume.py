"""Killed anywhere, a run with every safeguard on ends as if it had never been; and what the safeguards decide."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from luban import folder
from luban.device import DeviceConfig
from luban.errors import ConfigError, LubanError, TrainingError
from luban.inference import local
from luban.training import checkpoint, pretrain
from luban.training.architecture import ArchitectureConfig
from luban.training.best import Best
from luban.training.config import GuardConfig, LoopConfig, OptimizerConfig
from luban.training.metrics import read_log
from luban.training.step import Accumulated, Sums
from luban.tuning import sft
from tests.conftest import Workspace
from tests.ranks import exit_code
from tests.training.test_pretrain import LOOP, config_for, final_weights, losses

open_lm = functools.partial(local.open_lm, device=DeviceConfig(threads=1))
SAFEGUARDS: dict[str, Any] = {
    "max_steps": 44,
    "per_device_train_batch_size": 2,
    "max_length": 16,
    "precision": "float16",
    "gradient_checkpointing": True,
    "guard": GuardConfig(action="skip", spike=0.1, most_skipped=40),
    "metric_for_best": "val/loss",
    "eval_steps": 4,
    "eval_batches": 1,
    "save_steps": 6,
    "save_total_limit": 1,
}


@pytest.mark.slow
def test_a_run_killed_at_any_point_ends_as_one_that_was_not(workspace: Workspace, tmp_path: Path) -> None:
    loop = dataclasses.replace(LOOP, **SAFEGUARDS)
    slow = OptimizerConfig(learning_rate=1e-4)  # so that the loss goes up and down
    shape = ArchitectureConfig(layers=1, dim=16, heads=2, kv_heads=1)
    more: dict[str, Any] = {"prompts": ("In",), "sample_steps": 11, "optimizer": slow, "architecture": shape}
    whole = config_for(workspace, tmp_path / "whole", loop=loop, **more)
    pretrain.run(whole, open_lm)
    cut = dataclasses.replace(whole, out=tmp_path / "cut")
    for point, call in KILLS:
        assert exit_code(run_and_die, cut, point, call) == -signal.SIGKILL
    pretrain.run(cut, open_lm)
    assert timeless(cut.out) == timeless(whole.out)
    assert final_weights(cut.out) == final_weights(whole.out)
    for name in ("samples.jsonl", "skipped.jsonl", "checkpoints/best"):
        assert (cut.out / name).read_bytes() == (whole.out / name).read_bytes()
    state = read_state(cut.out)
    assert state["guard"]["skipped"] > 0  # so that there was something to lose
    assert state["scaler"]["skipped"] > 0
    for key in ("guard", "best", "scaler", "loader", "results"):
        assert state[key] == read_state(whole.out)[key]


KILLS: list[tuple[str, int]] = [
    ("sum", 3),  # before the first checkpoint
    ("save", 1),  # while the first checkpoint is written
    ("sum", 10),
    ("point", 3),  # a checkpoint is whole, but `latest` names the one before
    ("sum", 9),
    ("save", 4),
]
"""In which call of what, counted from the start of each process."""


def run_and_die(config: pretrain.Config, point: str, call: int) -> None:
    """Run the stage until this process kills itself at that place."""
    places: dict[str, tuple[Any, str]] = {
        "sum": (Accumulated, "sum"),
        "save": (torch, "save"),
        "point": (folder, "write_text"),
    }
    owner, name = places[point]
    original: Callable[..., Any] = getattr(owner, name)
    calls = iter(range(1, 10_000))

    def dying(*arguments: Any, **named: Any) -> Any:
        counts = point != "point" or Path(arguments[0]).name == checkpoint.LATEST
        if counts and next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **named)

    setattr(owner, name, dying)
    pretrain.run(config, open_lm)


def timeless(out: Path) -> list[dict[str, Any]]:
    """The log without what a clock or the machine decided."""
    clocked = ("seconds", "tok_per_sec", "mfu", "memory", "wait")
    return [
        {name: value for name, value in line.items() if not any(word in name for word in clocked)}
        for line in read_log(out)
    ]


def read_state(out: Path) -> dict[str, Any]:
    newest = checkpoint.latest(out)
    assert newest is not None
    return folder.read_json(newest / checkpoint.STATE)


def diverging(workspace: Workspace, out: Path, **changes: Any) -> pretrain.Config:
    """A run that learns for a few steps and then, its rate ever higher, forgets."""
    settings: dict[str, Any] = {
        "max_steps": 24, "eval_steps": 2, "eval_batches": 2, "save_total_limit": 1, "metric_for_best": "val/loss",
    }  # fmt: skip
    loop = dataclasses.replace(LOOP, **(settings | changes))
    return config_for(
        workspace, out, loop=loop, optimizer=OptimizerConfig(learning_rate=1.0, warmup_steps=24)
    )


def test_the_best_checkpoint_is_kept_and_becomes_the_final_model(
    workspace: Workspace, tmp_path: Path
) -> None:
    config = diverging(workspace, tmp_path / "run", load_best=True)
    results = pretrain.run(config, open_lm)
    seen = {
        line["step"]: line["val/loss"] for line in read_log(config.out) if "val/loss" in line and line["step"]
    }
    best = min(seen, key=lambda step: seen[step])
    assert best < 24
    assert (results["best_step"], results["val/loss"]) == (best, seen[best])
    kept = sorted(path.name for path in (config.out / "checkpoints").glob("step-*"))
    assert kept == [f"step-{best:08d}", "step-00000024"]
    assert (config.out / "checkpoints" / "best").read_text() == kept[0]
    assert (
        final_weights(config.out) == (config.out / "checkpoints" / kept[0] / "model.safetensors").read_bytes()
    )


def test_without_load_best_the_final_model_is_the_last(workspace: Workspace, tmp_path: Path) -> None:
    config = diverging(workspace, tmp_path / "run")
    pretrain.run(config, open_lm)
    last = config.out / "checkpoints" / "step-00000024" / "model.safetensors"
    assert final_weights(config.out) == last.read_bytes()


def test_a_run_ends_when_patience_does(workspace: Workspace, tmp_path: Path) -> None:
    config = diverging(workspace, tmp_path / "run", patience=2)
    results = pretrain.run(config, open_lm)
    assert results["ended_at"] == results["best_step"] + 2 * 2
    assert losses(config.out)[-1][0] == results["ended_at"] < 24
    assert json.loads((config.out / "run.json").read_text())["done"]


def test_patience_counts_evaluations_that_are_no_better_and_begins_anew_at_a_better_one() -> None:
    best = Best("val/loss", patience=2)
    told = [best.improves(step, {"val/loss": loss}) for step, loss in enumerate([1, 5, 6, 4, 4, 4])]
    assert told == [False, True, False, True, False, False]  # step 0, untrained, does not compete
    assert (best.step, best.since, best.exhausted) == (3, 2, True)
    twin = Best("val/loss", patience=2)
    twin.restore(json.loads(json.dumps(best.state())))
    assert vars(twin) == vars(best)


def test_a_metric_that_is_not_measured_is_refused_before_training(
    workspace: Workspace, tmp_path: Path
) -> None:
    loop = dataclasses.replace(LOOP, metric_for_best="val/bpb")
    config = config_for(workspace, tmp_path / "run", loop=loop, validation=None)
    with pytest.raises(ConfigError, match=r"metric_for_best.*no result 'val/bpb'(.|\n)*--validation"):
        pretrain.run(config, open_lm)
    assert losses(config.out) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"load_best": True}, r"loop\.load_best.*no best without a metric"),
        ({"patience": 2, "eval_steps": 1}, r"loop\.patience.*no best without a metric"),
        ({"patience": 2, "metric_for_best": "val/loss"}, r"loop\.patience.*nothing to wait for"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LoopConfig(**settings)


def broken_from(call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the loss not a number from the updater's `call`-th step on."""
    original, calls = Accumulated.sum, iter(range(1, 1000))

    def summed(self: Accumulated, *arguments: Any, **named: Any) -> Sums:
        sums = original(self, *arguments, **named)
        return sums if next(calls) < call else sums._replace(loss=math.nan)

    monkeypatch.setattr(Accumulated, "sum", summed)


def test_a_broken_batch_stops_with_its_step_documents_and_the_last_good_checkpoint(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for(workspace, tmp_path / "run")
    broken_from(8, monkeypatch)
    with pytest.raises(TrainingError) as told:
        pretrain.run(config, open_lm)
    assert str(told.value.where).startswith(f"step 8, documents {workspace.shards} #")
    assert told.value.what.startswith("the loss is nan")
    assert str(told.value.hint).endswith("the last checkpoint is " + str(checkpoint.latest(config.out)))
    assert checkpoint.latest(config.out) == checkpoint.at(config.out, 5)


def test_skipped_batches_are_in_the_log_the_results_and_their_own_file(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = dataclasses.replace(LOOP, guard=GuardConfig(action="skip", most_skipped=5))
    config = config_for(workspace, tmp_path / "run", loop=loop)
    broken_from(9, monkeypatch)
    results = pretrain.run(config, open_lm)
    assert results["train/skipped"] == 4
    assert read_log(config.out)[-2]["train/skipped"] == 4
    lines = [json.loads(line) for line in (config.out / "skipped.jsonl").read_text("utf-8").splitlines()]
    assert [line["step"] for line in lines] == [9, 10, 11, 12]
    assert all(line["documents"] for line in lines)


def test_what_did_not_go_into_the_model_is_counted_in_the_results(
    workspace: Workspace, tmp_path: Path
) -> None:
    loop = dataclasses.replace(LOOP, max_steps=3, max_length=256)
    config = sft.Config(
        model=workspace.model,
        data=(workspace.rows,),
        out=tmp_path / "run",
        loop=loop,
        packing=False,
        threads=1,
    )
    results = sft.run(config)
    (line,) = [line for line in read_log(config.out) if line["step"] == 3 and "train/loss" in line]
    for name in ("data/dropped", "data/truncated", "data/truncated_targets", "data/padding"):
        assert results[name] == line[name]
    assert results["data/padding"] > 0
    assert results["train/wait"] < 0.5


def test_rows_without_a_label_are_refused_before_the_first_step(workspace: Workspace, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    long = {"messages": [{"role": "user", "content": "why " * 200}, {"role": "assistant", "content": "so"}]}
    rows.write_text("".join(json.dumps(long) + "\n" for _ in range(4)), encoding="utf-8")
    config = sft.Config(model=workspace.model, data=(rows,), out=tmp_path / "run", loop=LOOP, threads=1)
    with pytest.raises(LubanError, match="none of 4 rows can be learnt from"):
        sft.run(config)
    assert not (tmp_path / "run" / "log.jsonl").exists()
