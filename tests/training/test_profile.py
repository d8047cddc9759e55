"""`luban profile`: phases add up, bytes are those of the tensors, the trace can be opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from luban.cli import main
from luban.training import anatomy
from luban.training.trial import random_batch
from tests import tiny

WORDS = (
    "profile architecture.layers=2 architecture.dim=32 architecture.heads=2 vocab=300 --threads 1 --steps 2"
)
WORDS += " per_device_train_batch_size=2 max_length=32"


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tiny model's profile, and where its trace is."""
    from luban.training import profile
    from luban.training.architecture import ArchitectureConfig

    trace = tmp_path_factory.mktemp("profile") / "trace.json"
    shape = ArchitectureConfig(layers=2, dim=32, heads=2, tied=False)
    config = profile.Config(
        architecture=shape, vocab=300, per_device_train_batch_size=4, max_length=64, threads=1, trace=trace
    )
    return {**profile.run(config), "trace": trace}


def test_the_phases_add_up_to_the_step_and_leave_little_over(profiled: dict[str, Any]) -> None:
    phases = dict(profiled["phases"])
    other = phases.pop("other")
    assert min(phases.values()) > 0
    assert sum(phases.values()) + other == pytest.approx(profiled["step_seconds"], rel=1e-6)
    assert other < 0.05 * profiled["step_seconds"]


def test_a_phase_that_is_slowed_is_the_one_that_grows() -> None:
    model = tiny.llama(context=64)

    def batch() -> Any:
        return random_batch(model.config.vocab, rows=2, length=32, device=torch.device("cpu"))

    def slow_hidden(*inputs: Any) -> Any:
        anatomy.time.sleep(0.2)
        return model.hidden(*inputs)

    usual = anatomy.phases(model, model.hidden, batch, steps=3)
    slowed = anatomy.phases(model, slow_hidden, batch, steps=3)
    assert slowed["forward"] > 0.2
    assert slowed["loss"] + slowed["backward"] < 0.2 + usual["loss"] + usual["backward"]


def test_speed_is_tokens_by_seconds(profiled: dict[str, Any]) -> None:
    assert profiled["tokens_per_second"] * profiled["step_seconds"] == pytest.approx(4 * 64)


def test_bytes_of_weights_gradients_and_adam_are_those_of_the_parameters(profiled: dict[str, Any]) -> None:
    dim, hidden, vocab = 32, 96, 300
    body = 2 * (4 * dim * dim + 3 * dim * hidden + 2 * dim)
    parts = profiled["memory_bytes"]
    weights = 4 * (body + dim + 2 * vocab * dim)
    assert (parts["weights"], parts["gradients"]) == (weights, weights)
    steps = 4 * (2 * (7 + 2) + 3)  # Adam keeps a count beside the two moments of each parameter
    assert parts["optimizer"] == 2 * weights + steps
    assert parts["logits"] == 2 * 4 * (4 * 64) * vocab


def test_each_kind_of_module_takes_time_both_ways(profiled: dict[str, Any]) -> None:
    modules = profiled["modules"]
    assert set(modules) == {"RMSNorm", "Attention", "GatedMLP", "Embedding"}
    for kind in ("RMSNorm", "Attention", "GatedMLP"):
        assert all(0 < seconds < profiled["step_seconds"] * 20 for seconds in modules[kind].values())


def test_hooks_are_gone_after_a_profile() -> None:
    model = tiny.llama(context=64)
    anatomy.module_seconds(
        model,
        lambda: random_batch(model.config.vocab, rows=2, length=16, device=torch.device("cpu")),
        steps=1,
    )
    hooked = [part for part in model.modules() if part._forward_hooks or part._backward_hooks]
    assert not hooked


def test_the_trace_opens_and_has_the_operators(profiled: dict[str, Any]) -> None:
    names = {event.get("name") for event in json.loads(profiled["trace"].read_text("utf-8"))["traceEvents"]}
    assert {row["name"] for row in profiled["operators"][:3]} <= names


def test_the_command_prints_tables_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS.split(), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) >= {"phases", "modules", "memory_bytes", "operators"}
    assert main(WORDS.split()) == 0
    shown = capsys.readouterr().out
    assert "backward" in shown
    assert "activations" in shown


def test_a_model_folder_can_be_profiled(workspace: Any, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"profile --model {workspace.model} --threads 1 --steps 1 max_length=32 --json"
    assert main(words.split()) == 0
    assert json.loads(capsys.readouterr().out)["tokens_per_second"] > 0


def test_a_family_that_is_not_trained_on_next_tokens_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = f"{WORDS} architecture.model_type=bert --trace {tmp_path / 'trace.json'}"
    assert main(words.split()) == 2
    assert "a profile is of next-token training" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
