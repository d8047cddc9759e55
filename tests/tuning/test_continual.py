"""Continual learning: the matrix by hand, adapters that keep what they know, a whole model that forgets."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from luban.data.conversations import read_examples
from luban.errors import ConfigError
from luban.folder import AlreadyDone, read_json
from luban.inference.local import open_lm
from luban.lm import Sampling
from luban.models import hf
from luban.tokenizers.files import load
from luban.training.config import LoopConfig
from luban.tuning import continual, sft
from luban.tuning.forgetting import known, summary
from luban.tuning.sft import TuningOptimizer
from tests.conftest import Workspace

NOUNS = ("fox", "dog", "tool", "king")
ANSWERS = ("one", "two", "three", "four")
ADJECTIVES = ("quick", "brown", "lazy", "good", "old", "new", "small", "big", "red", "blue", "poor", "rich")
LOOP = LoopConfig(
    max_steps=40, per_device_train_batch_size=4, max_length=64, compile=False, logging_steps=20, save_steps=0
)


def write_tasks(folder: Path, count: int) -> tuple[Path, ...]:
    """Tasks with the same questions and other answers: what one asks for is wrong in all others."""
    paths = []
    for task in range(count):
        rows = [
            {"prompt": f"{adjective} {noun}:", "completion": " " + ANSWERS[(place + task) % len(ANSWERS)]}
            for adjective in ADJECTIVES
            for place, noun in enumerate(NOUNS)
        ]
        paths.append(folder / f"task-{task}.jsonl")
        paths[-1].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tuple(paths)


def config_for(workspace: Workspace, folder: Path, **changes: Any) -> continual.Config:
    config = continual.Config(
        model=workspace.model,
        tasks=write_tasks(folder, 2),
        out=folder / "out",
        optimizer=TuningOptimizer(learning_rate=3e-3, warmup_steps=2),
        adapter_learning_rate=2e-2,
        loop=LOOP,
        peft={"target_modules": "all-linear", "r": 8},
        threads=1,
    )
    return dataclasses.replace(config, **changes)


def answers(path: Path, folder: Path) -> list[bool]:
    """For each row of a file whether greedy decoding of the model in `folder` writes its answer."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    lm = open_lm(str(folder))
    made = lm.generate([row["prompt"] for row in rows], Sampling(temperature=0, max_tokens=8))
    return [one.text == row["completion"] for one, row in zip(made, rows, strict=True)]


def test_a_matrix_comes_to_its_average_at_the_end_and_what_changed_since_learning() -> None:
    after = [[0.9, 0.1, 0.0], [0.5, 0.8, 0.2], [0.3, 0.7, 1.0]]
    assert summary(after) == pytest.approx(
        {
            "learnt": (0.9 + 0.8 + 1.0) / 3,
            "average_accuracy": (0.3 + 0.7 + 1.0) / 3,
            "backward_transfer": ((0.3 - 0.9) + (0.7 - 0.8)) / 2,
        }
    )


@pytest.mark.slow
def test_an_answer_is_right_when_greedy_decoding_would_write_it(workspace: Workspace, tmp_path: Path) -> None:
    paths, tokenizer = write_tasks(tmp_path, 2), load(workspace.model)
    config = sft.Config(
        model=workspace.model, data=paths[:1], out=tmp_path / "run", loop=LOOP, threads=1, validation=0.0
    )
    sft.run(dataclasses.replace(config, optimizer=TuningOptimizer(learning_rate=3e-3, warmup_steps=2)))
    some = tmp_path / "some.jsonl"  # of what was learnt, and of other answers to it
    lines = [line for path in paths for line in path.read_text("utf-8").splitlines()[::8]]
    some.write_text("\n".join(lines), encoding="utf-8")
    written = answers(some, config.out / "final")
    assert sum(written) >= len(written) // 4
    model, examples = hf.load(config.out / "final"), read_examples((some,), tokenizer, max_tokens=64)
    for place, right in enumerate(written):
        assert known(model, [examples[place]], longest=64).right == right
    found = known(model, [examples[place] for place in range(len(examples))], longest=64)
    assert found.right == sum(written) / len(written)


def test_loss_is_the_mean_over_the_tokens_of_answers(workspace: Workspace, tmp_path: Path) -> None:
    (path, _), tokenizer = write_tasks(tmp_path, 2), load(workspace.model)
    examples = read_examples((path,), tokenizer, max_tokens=64)
    model, nats, count = hf.load(workspace.model), 0.0, 0
    pairs = [examples[place] for place in range(5)]
    for ids, mask in pairs:
        with torch.no_grad():
            logits = model(torch.from_numpy(ids).long()[None, :-1])[0]
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(ids).long()[1:], reduction="none")
        nats, count = nats + loss[torch.from_numpy(mask[1:])].sum().item(), count + int(mask[1:].sum())
    assert known(model, pairs, longest=64).loss == pytest.approx(nats / count, rel=1e-4)


@pytest.mark.slow
def test_adapters_keep_what_a_model_tuned_in_turn_forgets(workspace: Workspace, tmp_path: Path) -> None:
    loop = dataclasses.replace(LOOP, max_steps=80)
    config = config_for(workspace, tmp_path, loop=loop, tasks=write_tasks(tmp_path, 3))
    results = continual.run(config)
    adapters, full = results["ways"]["adapters"], results["ways"]["full"]
    assert results["tasks"] == ["task-0", "task-1", "task-2"]
    assert min(adapters["learnt"], full["learnt"]) > 0.9
    assert adapters["backward_transfer"] == 0
    assert adapters["average_accuracy"] == adapters["learnt"]
    for task in range(3):  # to the bit, though all adapters are attached to one model
        column = [row[task] for row in adapters["loss"]["after"][task:]]
        assert column == [column[0]] * len(column)
    assert full["backward_transfer"] < -0.8
    assert full["after"][2][2] >= 0.9
    assert full["average_accuracy"] < 0.5 < adapters["average_accuracy"]


def test_each_task_leaves_an_adapter_and_the_stage_a_matrix(workspace: Workspace, tmp_path: Path) -> None:
    short = dataclasses.replace(LOOP, max_steps=2)
    config = config_for(workspace, tmp_path, loop=short)
    results = continual.run(config)
    for task in results["tasks"]:
        adapter = config.out / "adapters" / task / "final"
        assert read_json(adapter / "adapter_config.json")["peft_type"] == "LORA"
        assert (config.out / "full" / task / "final" / "model.safetensors").is_file()
    second = read_json(config.out / "full" / "task-1" / "run.json")["config"]["model"]
    assert second == str(config.out / "full" / "task-0" / "final")
    assert read_json(config.out / continual.RESULTS) == json.loads(json.dumps(results))
    assert (config.out / continual.PICTURE).read_bytes().startswith(b"\x89PNG")
    with pytest.raises(AlreadyDone):
        continual.run(config)


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_with_the_next_task(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = dataclasses.replace(LOOP, max_steps=2)
    whole = continual.run(config_for(workspace, tmp_path, loop=short))
    stopped = config_for(workspace, tmp_path, loop=short, out=tmp_path / "stopped")
    learn = sft.run

    def stop_at_the_third(config: sft.Config) -> dict[str, Any]:
        if config.out == stopped.out / "full" / "task-0":
            raise KeyboardInterrupt
        return learn(config)

    with monkeypatch.context() as patch:
        patch.setattr(sft, "run", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            continual.run(stopped)
    assert continual.run(stopped) == whole


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"peft": {"method": "relora"}}, "'relora' with these settings leaves no adapter"),
        ({"peft": {"merge": True}}, "'lora' with these settings leaves no adapter"),
        ({"peft": {"method": "lore"}}, "did you mean 'lora'"),
        ({"validation": 0.001}, r"of 48 rows a share of 0\.001 is none"),
        ({"ways": ("full", "full")}, "each way once"),
    ],
)
def test_a_wrong_setting_is_told_before_anything_is_written(
    workspace: Workspace, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        continual.run(config_for(workspace, tmp_path, **changes))
    assert not (tmp_path / "out").exists()


def test_tasks_are_told_apart_by_their_files_names(workspace: Workspace, tmp_path: Path) -> None:
    first = write_tasks(tmp_path, 2)[0]
    for tasks in ((first,), (first, first)):
        with pytest.raises(ConfigError, match="two or more tasks in files of different names"):
            continual.run(config_for(workspace, tmp_path, tasks=tasks))
