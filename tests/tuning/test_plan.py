"""`luban plan peft...`: what is trained, held and written of an adapter, by formula and as a run really has it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from luban.cli import main
from luban.errors import ConfigError
from luban.models.llama import LlamaConfig
from luban.peft import METHODS
from luban.training.memory import NF4_BITS
from luban.training.saved import saved_by, training_bytes
from luban.training.sizes import count
from luban.training.weights import hollow, weights_of
from luban.tuning import plan, sft
from luban.tuning.adapted import planned
from tests.conftest import Workspace
from tests.tuning.test_adapted import SETTINGS, config_for

SHAPE = LlamaConfig(layers=2, dim=64, heads=4, kv_heads=2, hidden=176, vocab=96, context=64, tied=False)
"""Attention: q and o of 64 x 64, k and v of 64 x 32; the MLP three times 64 x 176."""
LAYERS = {"q": (64, 64), "k": (64, 32), "v": (64, 32), "o": (64, 64), "gate": (64, 176), "up": (64, 176),
          "down": (176, 64)}  # fmt: skip


def folder_of(shape: Any, folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(shape.to_hf()), encoding="utf-8")
    return folder


def told(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["plan", "--model", str(folder), "--threads", "1", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_lora_is_planned_by_its_formulas(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = told(folder_of(SHAPE, tmp_path / "base"), capsys, "peft.method=lora", "peft.r=8")
    trained = 2 * 8 * sum(sum(LAYERS[name]) for name in "qv")  # 2 blocks
    whole = count(SHAPE)
    assert (results["trained_parameters"], results["parameters"]) == (trained, whole)
    assert results["memory_bytes"]["weights"] == 4 * (whole + trained)
    assert results["memory_bytes"]["optimizer"] == 8 * trained
    assert results["final_bytes"] == 4 * trained
    assert results["checkpoint_bytes"] == (4 + 4 + 8) * trained  # the adapter, as it is trained, two moments


def test_qloras_base_is_planned_in_four_bits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = told(folder_of(SHAPE, tmp_path / "base"), capsys, "peft.method=qlora", "peft.r=4")
    quantised = 2 * sum(inputs * outputs for inputs, outputs in LAYERS.values())
    trained = 2 * 4 * sum(map(sum, LAYERS.values()))
    kept = count(SHAPE) - quantised
    assert results["trained_parameters"] == trained
    assert results["memory_bytes"]["weights"] == quantised * NF4_BITS / 8 + 4 * (kept + trained)


def test_a_merged_adapter_ends_as_a_whole_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("peft.method=qlora", "peft.r=4", "peft.merge=true")
    results = told(folder_of(SHAPE, tmp_path / "base"), capsys, *words)
    assert results["final_bytes"] == 4 * count(SHAPE)
    assert results["checkpoint_bytes"] == 12 * results["trained_parameters"]


def test_frozen_weights_take_no_gradient_so_a_token_costs_a_third_less_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = folder_of(SHAPE, tmp_path / "base")
    whole, few = (told(base, capsys, *words) for words in ((), ("peft.method=lora", "peft.r=1")))
    matrices = 2 * sum(inputs * outputs for inputs, outputs in LAYERS.values()) + 96 * 64  # and the head
    saved = 2 * matrices - 6 * few["trained_parameters"]
    assert whole["flops_per_token"] - few["flops_per_token"] == saved


@pytest.mark.parametrize("method", [name for name in METHODS if name != "bitfit"])
def test_what_is_counted_without_memory_is_what_a_method_really_trains(method: str) -> None:
    from luban.models import hf

    settings = {"method": method, **SETTINGS.get(method, {})}
    torch.manual_seed(0)
    real, imagined = planned(hf.build(SHAPE), settings), planned(hollow(SHAPE), settings)
    assert imagined.counts() == real.counts()
    assert imagined.file_bytes() == real.file_bytes()
    assert weights_of(real.adapter.model) == weights_of(imagined.adapter.model)
    assert saved_by(SHAPE, rows=2, seq=16, adapt=lambda model: planned(model, settings)).total > 0


@pytest.mark.parametrize("method", ["lora", "qlora", "prefix_tuning", "relora"])
def test_a_run_writes_the_planned_bytes(method: str, workspace: Workspace, tmp_path: Path) -> None:
    peft = {"method": method, **SETTINGS.get(method, {})}
    config = config_for(workspace, tmp_path / "run", peft=peft)
    config = dataclasses.replace(config, loop=dataclasses.replace(config.loop, max_steps=4))
    results = sft.run(config)
    forecast = plan.run(plan.Config(model=workspace.model, peft=peft, max_length=160, threads=1))
    for name in ("trained_parameters", "parameters"):
        assert forecast[name] == results[name]
    assert forecast["final_bytes"] == tensor_bytes(config.out / "final")
    checkpoint = config.out / "checkpoints" / (config.out / "checkpoints/latest").read_text("utf-8").strip()
    moments = torch.load(checkpoint / "optimizer.pt", weights_only=True)["state"].values()
    held = sum(state[name].nbytes for state in moments for name in ("exp_avg", "exp_avg_sq"))
    assert forecast["checkpoint_bytes"] == tensor_bytes(checkpoint) + held


def tensor_bytes(folder: Path) -> int:
    return sum(value.nbytes for path in folder.glob("*.safetensors") for value in load_file(path).values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cluster": "8xA100"}, r"'peft' with 'cluster'"),
        ({"minutes": 5.0}, r"'peft' with 'minutes'"),
        ({"peft": {"method": "lorra"}}, "did you mean 'lora'"),
    ],
)
def test_a_plan_that_cannot_be_made_says_why(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan.run(plan.Config(**{"peft": {"method": "lora"}, "threads": 1, **changes}))


def test_the_tables_show_what_is_trained_and_written(capsys: pytest.CaptureFixture[str]) -> None:
    plan.show(plan.run(plan.Config(peft={"method": "lora"}, threads=1)))
    shown = capsys.readouterr().out
    for words in ("trained parameters", "final bytes", "checkpoint bytes", "activations"):
        assert words in shown


@pytest.mark.slow
def test_qloras_real_peak_is_within_a_tenth_of_the_plan() -> None:
    """Config S, a process of its own; config M is in the benchmark."""
    from benchmarks.tuned.memory import peak, planned

    _, taken = peak("qlora", "s")
    assert taken == pytest.approx(planned("qlora", "s")["total"], rel=0.1)


def test_less_is_planned_for_few_weights_than_for_all() -> None:
    plans = {
        method: training_bytes(SHAPE, count(SHAPE), rows=4, seq=64, adapt=adapt)
        for method, adapt in {
            "full": None,
            "lora": lambda model: planned(model, {"method": "lora"}),
            "qlora": lambda model: planned(model, {"method": "qlora"}),
        }.items()
    }
    assert plans["qlora"]["total"] < plans["lora"]["total"] < plans["full"]["total"]
