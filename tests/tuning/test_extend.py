"""The stage `extend`: a folder with a longer window, tuned or not, and perplexity by length of each state."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from luban.errors import ConfigError
from luban.folder import AlreadyDone, read_json
from luban.inference.local import open_lm
from luban.models import hf
from luban.peft.opening import is_adapter, open_model
from luban.tokenizers.files import load
from luban.training.architecture import ArchitectureConfig
from luban.training.config import OptimizerConfig
from luban.training.metrics import read_log
from luban.training.pretrain import Config as PretrainConfig
from luban.training.pretrain import run as pretrain
from luban.tuning import extend
from tests.conftest import Workspace
from tests.tuning.test_adapted import stop_after

LOOP = extend.ExtensionLoop(
    max_steps=3, per_device_train_batch_size=2, compile=False, logging_steps=1, save_steps=2
)
TEXT = (Path("the workspace's shards"),)
OPTIMIZER = extend.ExtensionOptimizer(learning_rate=1e-2, warmup_steps=0)


def config_for(workspace: Workspace, out: Path, **changes: Any) -> extend.Config:
    config = extend.Config(
        model=workspace.model, out=out, context=512, optimizer=OPTIMIZER, loop=LOOP, threads=1
    )
    return dataclasses.replace(config, **changes)


def test_without_text_the_window_is_longer_and_the_weights_are_the_same(
    workspace: Workspace, tmp_path: Path
) -> None:
    results = extend.run(config_for(workspace, tmp_path / "long"), open_lm)
    assert (results["method"], results["before"], results["context"]) == ("yarn", 256, 512)
    old, new = hf.load(workspace.model), hf.load(tmp_path / "long" / "final")
    assert new.config.rope_scaling.factor == 2
    for name, weight in old.named_parameters():
        assert new.get_parameter(name).equal(weight)
    assert load(tmp_path / "long" / "final").to_json() == load(workspace.model).to_json()
    with pytest.raises(AlreadyDone):
        extend.run(config_for(workspace, tmp_path / "long"), open_lm)


def test_perplexity_is_measured_in_each_state_of_the_model(workspace: Workspace, tmp_path: Path) -> None:
    out = tmp_path / "long"
    changes = {"data": (workspace.shards,), "documents": (workspace.documents,), "tokens": 1000}
    results = extend.run(config_for(workspace, out, **changes), open_lm)
    states = ["in its window of 256", "only declared longer", "yarn", "yarn, tuned"]
    assert list(results["perplexity"]) == states
    own, declared, _, tuned = results["perplexity"].values()
    assert list(own) == [256, 512]
    assert own[256] == pytest.approx(declared[256])  # within the old window nothing was changed
    assert own[512] == pytest.approx(own[256], rel=0.01)  # it sees no further
    assert tuned[512] < 0.9 * own[512]
    assert read_json(out / extend.CURVES)["perplexity"] == json.loads(json.dumps(results["perplexity"]))
    assert (out / extend.PICTURE).read_bytes().startswith(b"\x89PNG")
    assert len([line for line in read_log(out) if "train/loss" in line]) == 3


def test_rows_are_as_long_as_the_new_window_unless_told_otherwise(
    workspace: Workspace, tmp_path: Path
) -> None:
    text = {"data": (workspace.shards,), "packing": "windows"}
    extend.run(config_for(workspace, tmp_path / "whole", **text), open_lm)
    shorter = dataclasses.replace(LOOP, max_length=300)
    extend.run(config_for(workspace, tmp_path / "shorter", **text, loop=shorter), open_lm)
    tokens = [read_log(tmp_path / name)[1]["train/tokens"] for name in ("whole", "shorter")]
    assert tokens == [2 * 512, 2 * 300]


def test_held_out_shards_are_logged(workspace: Workspace, tmp_path: Path) -> None:
    config = config_for(workspace, tmp_path / "long", data=(workspace.shards,), validation=workspace.held_out)
    results = extend.run(config, open_lm)
    assert results["val/loss"] < read_log(config.out)[0]["val/loss"]


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return open_model(folder).eval()(torch.arange(300)[None] % 97)


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_an_adapter_goes_on_to_the_bit_and_its_folder_reads_the_new_window(
    method: str, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peft = {"method": method, "r": 4}
    whole, killed = (
        config_for(workspace, tmp_path / name, data=(workspace.shards,), peft=peft)
        for name in ("whole", "killed")
    )
    results = extend.run(whole, open_lm)
    stop_after(2, monkeypatch)
    with pytest.raises(RuntimeError, match="killed"):
        extend.run(killed, open_lm)
    monkeypatch.undo()
    extend.run(killed, open_lm)
    assert 0 < results["trained_parameters"] < results["parameters"]
    assert is_adapter(whole.out / "final")
    assert open_lm(str(whole.out / "final")).context == 512
    torch.testing.assert_close(logits(killed.out / "final"), logits(whole.out / "final"), rtol=0, atol=0)
    assert not torch.equal(logits(whole.out / "final"), logits(whole.out / extend.BASE))


def test_a_merged_adapter_is_one_model_that_computes_the_same(workspace: Workspace, tmp_path: Path) -> None:
    for name, more in (("beside", {}), ("merged", {"merge": True})):
        peft = {"method": "lora", "r": 4, **more}
        extend.run(config_for(workspace, tmp_path / name, data=(workspace.shards,), peft=peft), open_lm)
    assert not (tmp_path / "merged" / extend.BASE).exists()
    assert hf.load_config(tmp_path / "merged/final").context == 512
    torch.testing.assert_close(
        logits(tmp_path / "merged/final"), logits(tmp_path / "beside/final"), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"context": 256}, "256 tokens are not more than the window has"),
        ({"method": "alibi"}, "'alibi' is not for a 'llama' model"),
        ({"lengths": (1024,)}, "1024 tokens are more than the new window of 512"),
        ({"weights": (1.0,)}, "1 weights for 0 data folders"),
        ({"peft": {"method": "lora"}}, "an adapter learns from text"),
        ({"peft": {"method": "lorra"}, "data": TEXT}, "did you mean 'lora'"),
        ({"loop": dataclasses.replace(LOOP, max_length=1024)}, "rows of 1024 tokens are longer"),
    ],
)
def test_a_wrong_setting_is_told_before_anything_is_written(
    workspace: Workspace, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    if changes.get("data") == TEXT:
        changes = {**changes, "data": (workspace.shards,)}
    with pytest.raises(ConfigError, match=told):
        extend.run(config_for(workspace, tmp_path / "long", **changes), open_lm)
    assert not (tmp_path / "long").exists()


def test_shards_of_another_vocabulary_are_refused(workspace: Workspace, tmp_path: Path) -> None:
    from luban.data import shards, vocabulary

    small = tmp_path / "small"
    vocabulary.run(vocabulary.Config(data=(workspace.documents,), out=small, vocab=300))
    shards.run(shards.Config(data=(workspace.documents,), tokenizer=small, out=tmp_path / "shards"))
    with pytest.raises(ConfigError, match="a vocabulary of 300, the model has 384"):
        extend.run(config_for(workspace, tmp_path / "long", data=(tmp_path / "shards",)), open_lm)


def trained_on_short_rows(workspace: Workspace, out: Path, family: str) -> Path:
    """A small model that has read 32 tokens at a time; its folder."""
    loop = dataclasses.replace(
        LOOP, max_steps=300, per_device_train_batch_size=16, max_length=32, logging_steps=100, save_steps=0
    )
    config = PretrainConfig(
        data=(workspace.shards,),
        tokenizer=workspace.tokenizer,
        out=out,
        architecture=ArchitectureConfig(model_type=family, layers=2, dim=64, heads=2),
        loop=loop,
        optimizer=OptimizerConfig(learning_rate=5e-3),
        threads=1,
    )
    pretrain(config, open_lm)
    return out / "final"


@pytest.mark.slow
def test_a_model_that_is_tuned_gains_by_the_longer_window(workspace: Workspace, tmp_path: Path) -> None:
    config = extend.Config(
        model=trained_on_short_rows(workspace, tmp_path / "base", "llama"),
        out=tmp_path / "long",
        context=256,
        data=(workspace.shards,),
        documents=(workspace.documents,),
        lengths=(256,),
        tokens=4096,
        optimizer=extend.ExtensionOptimizer(learning_rate=3e-3, warmup_steps=5),
        loop=dataclasses.replace(LOOP, max_steps=50, per_device_train_batch_size=4, save_steps=0),
        threads=1,
    )
    own, declared, _, tuned = (curve[256] for curve in extend.run(config, open_lm)["perplexity"].values())
    assert tuned < 0.97 * min(own, declared)


@pytest.mark.slow
def test_a_model_with_slopes_reads_on_without_tuning(workspace: Workspace, tmp_path: Path) -> None:
    config = extend.Config(
        model=trained_on_short_rows(workspace, tmp_path / "base", "bloom"),
        out=tmp_path / "long",
        context=256,
        method="alibi",
        documents=(workspace.documents,),
        tokens=4096,
        threads=1,
    )
    own, longer = extend.run(config, open_lm)["perplexity"].values()
    assert longer[256] < 1.02 * own[256]
    assert longer[256] < 1.02 * longer[32]
