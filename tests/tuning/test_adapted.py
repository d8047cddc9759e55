"""Stages with the setting `peft`: every method trains, resumes to the bit, and its folder opens as it was trained."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from luban.errors import ConfigError, ModelError
from luban.inference.local import open_lm
from luban.lm import Sampling
from luban.models import hf
from luban.peft import METHODS
from luban.peft.adapter import switched_off
from luban.peft.child import ChildTuning
from luban.peft.opening import is_adapter, open_model
from luban.training.config import LoopConfig, ParallelConfig
from luban.training.loop import Fit
from luban.training.metrics import read_log
from luban.tuning import sft
from luban.tuning.adapted import TRAINED
from tests import tiny
from tests.conftest import Workspace
from tests.ranks import run_ranks

MERGED = {"relora"}
"""Methods that leave a whole model."""
SETTINGS: dict[str, dict[str, Any]] = {
    "adalora": {"tinit": 2, "tfinal": 2, "deltaT": 1, "init_r": 4, "target_r": 2, "target_modules": "q,v"},
    "increlora": {"target_r": 3, "deltaT": 2, "target_modules": ["q", "v"]},
    "relora": {"reset_every": 3, "rewarm_steps": 1, "r": 2},
    "bitfit": {"train_norms": True},
    "last_blocks": {"blocks": 1},
    "prompt_tuning": {"num_virtual_tokens": 4},
    "p_tuning": {"num_virtual_tokens": 4},
    "prefix_tuning": {"num_virtual_tokens": 4},
    "child_tuning": {"kind": "D", "p": 0.3},
}
LOOP = LoopConfig(
    max_steps=8,
    per_device_train_batch_size=4,
    max_length=160,
    compile=False,
    logging_steps=1,
    save_steps=4,
)


def config_for(workspace: Workspace, out: Path, **changes: Any) -> sft.Config:
    optimizer = sft.TuningOptimizer(learning_rate=1e-2, warmup_steps=1)
    config = sft.Config(
        model=workspace.model, data=(workspace.rows,), out=out, loop=LOOP, optimizer=optimizer, threads=1,
        max_rows=60,
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


def losses(out: Path) -> list[float]:
    return [line["train/loss"] for line in read_log(out) if "train/loss" in line]


def logits(folder: Path) -> torch.Tensor:
    model = open_model(folder).eval()
    with torch.no_grad():
        return model(torch.arange(40)[None] % 300)


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run be killed in step `step` + 1."""
    advance = Fit._advance

    def dying(fit: Fit, now: int, batches: Any) -> None:
        if now > step:
            raise RuntimeError("killed")
        advance(fit, now, batches)

    monkeypatch.setattr(Fit, "_advance", dying)


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_goes_on_to_the_bit_and_its_folder_computes_what_was_trained(
    method: str, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peft = {"method": method, **SETTINGS.get(method, {})}
    whole = config_for(workspace, tmp_path / "whole", peft=peft)
    results = sft.run(whole)
    killed = config_for(workspace, tmp_path / "killed", peft=peft)
    stop_after(5, monkeypatch)
    with pytest.raises(RuntimeError, match="killed"):
        sft.run(killed)
    monkeypatch.undo()
    sft.run(killed)
    assert losses(killed.out) == losses(whole.out)
    assert not torch.equal(logits(whole.out / "final"), logits(workspace.model))
    assert 0 < results["trained_parameters"] <= results["parameters"]
    assert is_adapter(whole.out / "final") == (method not in MERGED)
    torch.testing.assert_close(logits(killed.out / "final"), logits(whole.out / "final"), rtol=0, atol=0)


@pytest.mark.parametrize("method", ["lora", "adalora", "qlora", "ia3", "bitfit", "last_blocks"])
def test_a_merged_run_computes_what_the_adapter_does(
    method: str, workspace: Workspace, tmp_path: Path
) -> None:
    peft = {"method": method, **SETTINGS.get(method, {})}
    sft.run(config_for(workspace, tmp_path / "beside", peft=peft))
    sft.run(config_for(workspace, tmp_path / "merged", peft={**peft, "merge": True}))
    assert not is_adapter(tmp_path / "merged/final")
    torch.testing.assert_close(
        logits(tmp_path / "merged/final"), logits(tmp_path / "beside/final"), rtol=0, atol=1e-5
    )


def test_an_adapters_folder_is_small_generates_and_leaves_its_base_as_it_was(
    workspace: Workspace, tmp_path: Path
) -> None:
    sft.run(config_for(workspace, tmp_path / "run", peft={"method": "lora", "r": 4}))
    final = tmp_path / "run/final"
    tensors = load_file(final / "adapter_model.safetensors")
    base = hf.load(workspace.model)
    layers, dim, kv = len(base.blocks), base.config.dim, base.config.kv_heads * base.config.head_dim
    assert sum(tensor.numel() for tensor in tensors.values()) == layers * 4 * (dim + dim + dim + kv)
    lm = open_lm(str(final))
    assert lm.generate(["In the"], Sampling(max_tokens=4))[0].tokens
    tokens = torch.arange(30)[None]
    with torch.no_grad(), switched_off(lm.model):
        torch.testing.assert_close(lm.model(tokens), base.eval()(tokens), rtol=0, atol=0)


def test_a_prompt_takes_its_places_from_the_window(workspace: Workspace, tmp_path: Path) -> None:
    peft = {"method": "prompt_tuning", "num_virtual_tokens": 6}
    sft.run(config_for(workspace, tmp_path / "run", peft=peft))
    assert open_lm(str(tmp_path / "run/final")).context == hf.load_config(workspace.model).context - 6
    long = dataclasses.replace(LOOP, max_length=256)
    with pytest.raises(ConfigError, match="262"):
        sft.run(config_for(workspace, tmp_path / "long", peft=peft, loop=long))
    assert not (tmp_path / "long").exists()


@pytest.mark.parametrize(
    ("peft", "message"),
    [
        ({"r": 4}, "no method is given"),
        ({"method": "lorra"}, "unknown method 'lorra'.*lora"),
        ({"method": "lora", "rank": 4}, r"unknown setting 'rank'"),
        ({"method": "lora", "target_modules": "quarry"}, "'quarry' matches no layer"),
        ({"method": "lora", "r": 0}, "'r'"),
        ({"method": "prefix_tuning", "merge": True}, "cannot be merged"),
        ({"method": "lora", "merge": "perhaps"}, "'merge' is true or false"),
    ],
)
def test_a_wrong_setting_is_told_before_anything_is_written(
    peft: dict[str, Any], message: str, workspace: Workspace, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        sft.run(config_for(workspace, tmp_path / "run", peft=peft))
    assert not (tmp_path / "run").exists()


def test_what_no_adapters_file_can_say_is_refused_unless_it_is_merged(tmp_path: Path) -> None:
    from luban.tuning.adapted import adapted

    peft = {"method": "adalora", "target_modules": "q,v"}  # GPT-2's file has one layer for q, k and v
    with pytest.raises(ConfigError, match="only LoRAs and IA3 on outputs can become"):
        adapted(tiny.gpt2(), peft, base=tmp_path)
    learner = adapted(tiny.gpt2(), {**peft, "merge": True}, base=tmp_path)
    assert learner is not None
    learner.write(tmp_path, learner.adapter.model, tiny.tokenizer())
    assert [path.name for path in tmp_path.iterdir()] == [TRAINED]
    learner.finish(tmp_path / "final", learner.adapter.model, tiny.tokenizer())
    assert hf.load_config(tmp_path / "final").model_type == "gpt2"


def test_weights_in_four_bits_count_as_weights(workspace: Workspace) -> None:
    from luban.tuning.adapted import adapted

    model = hf.load(workspace.model)
    whole = sum(weight.numel() for weight in model.parameters())
    learner = adapted(model, {"method": "qlora"}, base=workspace.model)
    assert learner is not None
    assert learner.counts()["parameters"] == whole


def test_hugging_faces_names_of_layers_are_understood(workspace: Workspace, tmp_path: Path) -> None:
    theirs = {"method": "lora", "target_modules": "q_proj,down_proj"}
    sft.run(config_for(workspace, tmp_path / "run", peft=theirs))
    told = json.loads((tmp_path / "run/final/adapter_config.json").read_text("utf-8"))
    assert told["target_modules"] == ["down_proj", "q_proj"]


def test_lora_learns_from_step_1_where_blocks_are_computed_again(
    workspace: Workspace, tmp_path: Path
) -> None:
    loop = dataclasses.replace(LOOP, gradient_checkpointing=True)
    for name, used in (("plain", LOOP), ("again", loop)):
        sft.run(config_for(workspace, tmp_path / name, loop=used, peft={"method": "lora"}))
    first = read_log(tmp_path / "again")[1]
    assert first["train/grad_norm"] > 0.01
    assert losses(tmp_path / "again") == pytest.approx(losses(tmp_path / "plain"), rel=1e-5)


def test_an_adapter_whose_base_is_gone_or_another_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    sft.run(config_for(workspace, tmp_path / "run", peft={"method": "lora"}))
    path = tmp_path / "run/final/adapter_config.json"
    told = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**told, "base_model_name_or_path": "/gone"}), encoding="utf-8")
    with pytest.raises(ModelError, match="base '/gone' is not there"):
        open_lm(str(path.parent))


@pytest.mark.parametrize("changes", [{"tp": 2}, {"zero": 1}])
def test_layouts_that_cut_a_model_up_are_refused(changes: dict[str, Any], workspace: Workspace) -> None:
    from luban.tuning.adapted import adapted

    model = hf.load(workspace.model)
    with pytest.raises(ConfigError, match=r"parallel\."):
        adapted(model, {"method": "lora"}, base=workspace.model, parallel=ParallelConfig(**changes))


def two_copies(config: sft.Config) -> list[float]:
    sft.run(config)
    return losses(config.out)


@pytest.mark.slow
def test_two_copies_learn_what_one_process_does(workspace: Workspace, tmp_path: Path) -> None:
    alone = config_for(workspace, tmp_path / "alone", peft={"method": "lora"})
    sft.run(alone)
    half = dataclasses.replace(LOOP, per_device_train_batch_size=2)
    both = config_for(workspace, tmp_path / "both", peft={"method": "lora"}, loop=half)
    run_ranks(2, two_copies, both)
    assert losses(both.out) == pytest.approx(losses(alone.out), abs=1e-6)
    torch.testing.assert_close(logits(both.out / "final"), logits(alone.out / "final"), rtol=0, atol=1e-5)


def child_chosen(config: sft.Config) -> str:
    """Which weights this process's child is made of; the process ends with the test."""
    seen: list[str] = []
    look = ChildTuning.before_training

    def noting(self: ChildTuning, batches: Any, objective: Any) -> None:
        look(self, batches, objective)
        seen.append(self.state()["child"])

    ChildTuning.before_training = noting
    sft.run(config)
    return seen[0]


@pytest.mark.slow
def test_copies_that_read_other_rows_choose_the_same_child(workspace: Workspace, tmp_path: Path) -> None:
    peft = {"method": "child_tuning", "kind": "D"}
    one, other = run_ranks(2, child_chosen, config_for(workspace, tmp_path / "run", peft=peft))
    assert one == other


@pytest.mark.slow
def test_a_compiled_run_with_lora_learns_the_same(workspace: Workspace, tmp_path: Path) -> None:
    sft.run(config_for(workspace, tmp_path / "eager", peft={"method": "lora"}))
    loop = dataclasses.replace(LOOP, compile=True)
    sft.run(config_for(workspace, tmp_path / "compiled", peft={"method": "lora"}, loop=loop))
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "eager"), rel=1e-4)


def test_noise_is_for_training_only_and_smoothing_leaves_the_held_out_loss_plain(
    workspace: Workspace, tmp_path: Path
) -> None:
    plain = config_for(workspace, tmp_path / "plain", validation=0.2)
    sft.run(plain)
    for name, changes in (("noise", {"neftune_alpha": 5.0}), ("smooth", {"label_smoothing": 0.1})):
        sft.run(dataclasses.replace(plain, out=tmp_path / name, **changes))
        assert losses(tmp_path / name)[0] != losses(plain.out)[0]
        assert read_log(tmp_path / name)[0]["val/loss"] == read_log(plain.out)[0]["val/loss"]
