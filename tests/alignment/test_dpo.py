"""The stage `dpo`: it learns what is preferred, stays near its reference, resumes, and is alike on two processes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from luban.alignment import dpo
from luban.alignment.pair_stage import PairLoop, PreferenceOptimizer
from luban.errors import CheckpointError, ConfigError, DataError
from luban.training.checkpoint import write_model_folder
from luban.training.config import ParallelConfig
from luban.training.metrics import read_log
from tests import tiny
from tests.alignment.short_answers import short_and_long, write_rows
from tests.ranks import run_ranks

LOOP = PairLoop(
    max_steps=12,
    per_device_train_batch_size=4,
    max_length=128,
    compile=False,
    logging_steps=4,
    eval_batches=2,
    save_steps=0,
)


DRAW = {"prompt": "a", "chosen": "b", "rejected": "b"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy") / "model"
    folder.mkdir()
    torch.manual_seed(0)
    write_model_folder(folder, tiny.llama(context=128), tiny.tokenizer())
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", short_and_long(60))


def config_for(model: Path, rows: Path, out: Path, **changes: Any) -> dpo.Config:
    optimizer = PreferenceOptimizer(learning_rate=2e-3, warmup_steps=2)
    told = {"optimizer": optimizer, "loop": LOOP, "threads": 1, "validation": 0.2}
    return dpo.Config(model=model, data=(rows,), out=out, **(told | changes))


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "final" / "model.safetensors")


@pytest.mark.parametrize(
    "loss",
    ["sigmoid", *(pytest.param(name, marks=pytest.mark.slow) for name in ("hinge", "ipo", "kto", "simpo"))],
)
def test_held_out_pairs_come_into_the_right_order(loss: Any, model: Path, rows: Path, tmp_path: Path) -> None:
    beta = 2.0 if loss == "simpo" else 0.1
    results = dpo.run(config_for(model, rows, tmp_path / "run", loss=loss, beta=beta))
    first = read_log(tmp_path / "run")[0]
    assert results["val/loss"] < first["val/loss"]
    assert results["val/accuracy"] > (0.4 if loss == "kto" else 0.8)  # where each answer is judged alone
    assert results["val/reward_margin"] > 0.01


def test_before_the_first_step_the_policy_is_its_reference(model: Path, rows: Path, tmp_path: Path) -> None:
    dpo.run(config_for(model, rows, tmp_path / "run"))
    first = read_log(tmp_path / "run")[0]
    assert first["val/loss"] == pytest.approx(0.6931, abs=1e-4)
    assert first["val/reward_margin"] == pytest.approx(0, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("peft", [{}, {"method": "lora", "r": 4, "target_modules": ["q", "v", "up"]}])
def test_a_live_reference_teaches_the_same_as_a_precomputed_one(
    peft: dict[str, Any], model: Path, rows: Path, tmp_path: Path
) -> None:
    runs = [
        dpo.run(config_for(model, rows, tmp_path / kind, reference=kind, peft=peft))
        for kind in ("precomputed", "live")
    ]
    assert runs[0]["val/loss"] == pytest.approx(runs[1]["val/loss"], abs=1e-5)
    assert runs[0]["val/reward_margin"] == pytest.approx(runs[1]["val/reward_margin"], abs=1e-4)
    if peft:
        assert (tmp_path / "live" / "final" / "adapter_model.safetensors").is_file()


def test_an_interrupted_run_ends_as_an_uninterrupted_one(model: Path, rows: Path, tmp_path: Path) -> None:
    loop = dataclasses.replace(LOOP, save_steps=4, save_total_limit=9)
    config = config_for(model, rows, tmp_path / "whole")
    dpo.run(config)
    cut = config_for(model, rows, tmp_path / "cut", loop=loop)
    dpo.run(cut)
    _undo(cut.out, to_step=8)
    told = {path: path.stat().st_mtime_ns for path in (cut.out / "reference").rglob("*.npy")}
    dpo.run(cut)
    one, other = weights(config.out), weights(cut.out)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert told == {path: path.stat().st_mtime_ns for path in told}  # the reference was not asked again


def _undo(out: Path, *, to_step: int) -> None:
    """Leave a finished run as it was when it had just saved `to_step`."""
    import shutil

    for folder in out.glob("checkpoints/step-*"):
        if int(folder.name[5:]) > to_step:
            shutil.rmtree(folder)
    (out / "checkpoints" / "latest").write_text(f"step-{to_step:08d}", encoding="utf-8")
    shutil.rmtree(out / "final")
    run = json.loads((out / "run.json").read_text("utf-8"))
    (out / "run.json").write_text(json.dumps({**run, "done": False}), encoding="utf-8")


def test_a_reference_of_other_pairs_is_refused(model: Path, rows: Path, tmp_path: Path) -> None:
    import numpy as np

    config = config_for(model, rows, tmp_path / "run")
    folder = config.out / "reference" / "preferences"
    folder.mkdir(parents=True)
    np.save(folder / "reference-00000.npy", np.zeros((3, 2), np.float32))
    with pytest.raises(ConfigError, match="not empty"):  # not of this run at all
        dpo.run(config)
    from luban.alignment.reference import _read

    with pytest.raises(CheckpointError, match="it holds 3 pairs, and there are 5 here"):
        _read(folder, 0, range(5))


def one_step(config: dpo.Config, out: str) -> dict[str, float]:
    """On one of several processes: the run, told by its results."""
    return dpo.run(dataclasses.replace(config, out=Path(out)))


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 3])
def test_two_processes_learn_what_one_does(zero: Any, model: Path, rows: Path, tmp_path: Path) -> None:
    alone = config_for(model, rows, tmp_path / "alone", loop=LOOP)
    told = dpo.run(alone)
    half = dataclasses.replace(LOOP, per_device_train_batch_size=2)
    shared = dataclasses.replace(alone, loop=half, parallel=ParallelConfig(zero=zero))
    both = run_ranks(2, one_step, shared, str(tmp_path / "both"))
    assert both[0]["val/loss"] == pytest.approx(told["val/loss"], abs=1e-4)
    one, other = weights(alone.out), weights(tmp_path / "both")
    for name, weight in one.items():
        torch.testing.assert_close(other[name], weight, rtol=1e-3, atol=2e-4)


def test_smoothing_is_for_losses_that_know_it() -> None:
    with pytest.raises(ConfigError, match="loss hinge has no label_smoothing"):
        dpo.Config(model=Path("m"), data=(), out=Path("o"), loss="hinge", label_smoothing=0.1)


def test_a_model_that_is_cut_up_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"parallel\.tp.*copies"):
        dpo.Config(model=Path("m"), data=(), out=Path("o"), parallel=ParallelConfig(tp=2))


def test_an_adapter_that_leaves_no_room_for_the_longest_answer_is_refused(
    model: Path, rows: Path, tmp_path: Path
) -> None:
    peft = {"method": "prompt_tuning", "num_virtual_tokens": 100}
    with pytest.raises(
        ConfigError, match="prompt_tuning takes 100 of the window's 128 places, and the longest"
    ):
        dpo.run(config_for(model, rows, tmp_path / "run", peft=peft))
    assert not (tmp_path / "run").exists()


def test_a_model_without_next_token_is_refused(rows: Path, tmp_path: Path) -> None:
    (tmp_path / "bert").mkdir()
    write_model_folder(tmp_path / "bert", tiny.bert(), tiny.tokenizer())
    with pytest.raises(ConfigError, match="'bert' models predict no next token"):
        dpo.run(config_for(tmp_path / "bert", rows, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_bad_row_stops_the_run_before_anything_is_written(model: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [*short_and_long(3), DRAW])
    with pytest.raises(DataError, match=r"rows\.jsonl:4: chosen and rejected are the same"):
        dpo.run(config_for(model, rows, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_rows_left_out_are_written_beside_the_run(model: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [*short_and_long(12), DRAW])
    loop = dataclasses.replace(LOOP, max_steps=1)
    results = dpo.run(config_for(model, rows, tmp_path / "run", on_bad_row="reject", loop=loop))
    assert (results["rows"], results["rejected"]) == (13, 1)
    (line,) = (tmp_path / "run" / "rejected.jsonl").read_text("utf-8").splitlines()
    assert json.loads(line)["row"] == DRAW
