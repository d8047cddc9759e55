"""The stage `sft`: the loss is on answers, held-out rows are kept apart, and it learns to answer."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from luban.errors import ConfigError, DataError
from luban.evaluation.questions import ask, read_questions
from luban.inference.local import open_lm
from luban.tokenizers.files import load
from luban.training.checkpoint import write_model_folder
from luban.training.config import LoopConfig
from luban.training.metrics import read_log
from luban.tuning import sft
from tests import tiny
from tests.conftest import Workspace

LOOP = LoopConfig(
    max_steps=10, per_device_train_batch_size=8, max_length=128, compile=False, logging_steps=5, save_steps=0
)


def config_for(workspace: Workspace, out: Path, **changes: Any) -> sft.Config:
    optimizer = sft.TuningOptimizer(learning_rate=3e-3, warmup_steps=2)
    config = sft.Config(
        model=workspace.model, data=(workspace.rows,), out=out, loop=LOOP, optimizer=optimizer, threads=1
    )
    return dataclasses.replace(config, **changes)


def write_rows(path: Path, answers: dict[str, str], times: int) -> Path:
    rows = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}
        for asked, answer in answers.items()
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows * times), encoding="utf-8")
    return path


def test_a_tuned_model_answers_what_it_was_taught_and_stops(workspace: Workspace, tmp_path: Path) -> None:
    taught = {"red?": "stop", "green?": "go", "yellow?": "wait"}
    rows = write_rows(tmp_path / "rows.jsonl", taught, times=40)
    loop = dataclasses.replace(LOOP, max_steps=60)
    config = config_for(workspace, tmp_path / "run", data=(rows,), loop=loop)
    untuned = ask(open_lm(str(workspace.model)), read_questions(rows, 3))
    sft.run(config)
    tuned = ask(open_lm(str(config.out / "final")), read_questions(rows, 3))
    assert (untuned.correct, tuned.correct) == (0, 3)


def test_the_held_out_loss_falls_on_real_questions(workspace: Workspace, tmp_path: Path) -> None:
    config = config_for(workspace, tmp_path / "run", validation=0.2)
    results = sft.run(config)
    log = read_log(config.out)
    assert results["rows"] == len(workspace.rows.read_text().splitlines())
    assert log[-1]["val/loss"] < log[0]["val/loss"] - 0.5


def test_rows_that_are_too_long_are_cut_or_dropped_and_counted(workspace: Workspace, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", {"say much": "word " * 80, "say little": "word"}, times=20)
    short = dataclasses.replace(LOOP, max_length=48, max_steps=2)
    cut = sft.run(config_for(workspace, tmp_path / "cut", data=(rows,), loop=short))
    dropped = sft.run(config_for(workspace, tmp_path / "dropped", data=(rows,), loop=short, overlong="drop"))
    assert (cut["truncated"], cut["rejected"]) == (20, 0)
    assert (dropped["truncated"], dropped["rejected"]) == (0, 20)


def test_rows_without_an_answer_leave_nothing_to_train_on(workspace: Workspace, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"messages": [{"role": "user", "content": "hello?"}]}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"rows\.jsonl:1: there is no assistant turn"):
        sft.run(config_for(workspace, tmp_path / "run", data=(rows,)))
    assert not (tmp_path / "run").exists()


def test_a_model_without_next_token_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    write_model_folder(tmp_path / "bert", tiny.bert(context=256), load(workspace.tokenizer))
    with pytest.raises(ConfigError, match="'bert' models predict no next token"):
        sft.run(config_for(workspace, tmp_path / "run", model=tmp_path / "bert"))
    assert not (tmp_path / "run").exists()


def test_epochs_decide_the_number_of_steps_where_none_is_set(workspace: Workspace, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", {f"question {n}?": "yes" for n in range(32)}, times=1)
    loop = dataclasses.replace(LOOP, max_steps=0, num_train_epochs=2.0)
    config = config_for(workspace, tmp_path / "run", data=(rows,), loop=loop, packing=False, validation=0.0)
    assert sft.run(config)["steps"] == 2 * 32 // 8


def test_rejected_rows_lie_beside_the_run_and_a_run_told_to_stop_writes_nothing(
    workspace: Workspace, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", {"red?": "stop"}, times=40)
    rows.write_text(rows.read_text(encoding="utf-8") + '{"odd": 1}\n', encoding="utf-8")
    results = sft.run(config_for(workspace, tmp_path / "run", data=(rows,)))
    assert results["rejected"] == 1
    line = json.loads((tmp_path / "run" / "rejected.jsonl").read_text(encoding="utf-8"))
    assert (line["where"], line["row"]) == (f"{rows}:41", {"odd": 1})
    with pytest.raises(DataError, match=r"rows\.jsonl:41: unknown row format"):
        sft.run(config_for(workspace, tmp_path / "stopped", data=(rows,), on_bad_row="stop"))
    assert not (tmp_path / "stopped").exists()


def test_a_table_is_tuned_on_through_its_columns(workspace: Workspace, tmp_path: Path) -> None:
    table = tmp_path / "qa.csv"
    table.write_text("question;reply\n" + "red?;stop\n" * 20, encoding="utf-8")
    columns = {"instruction": "question", "output": "reply"}
    results = sft.run(config_for(workspace, tmp_path / "run", data=(table,), columns=columns))
    assert (results["rows"], results["rejected"]) == (20, 0)
