"""Families that are one decoder with a difference, through the stages: trained, saved, asked to go on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from luban.cli import main
from luban.models import hf
from luban.models.bloom import BloomConfig
from luban.models.llama import LlamaConfig
from luban.nn.moe import MoE
from luban.tokenizers.files import load
from luban.training.checkpoint import write_model_folder
from luban.training.metrics import read_log
from tests.conftest import Workspace

SETTINGS = (
    "loop.max_steps=6 loop.logging_steps=1 loop.per_device_train_batch_size=4 loop.max_length=32"
    " optimizer.warmup_steps=1 optimizer.learning_rate=0.01 architecture.layers=1 architecture.dim=32"
    " architecture.heads=4 --threads 1"
)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "bloom"])
def test_a_new_model_learns_and_goes_on_with_a_text(
    family: str, workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"pretrain --model {family} --data {workspace.shards} --tokenizer {workspace.tokenizer}"
    compiled = "" if family != "bloom" else "loop.compile=false"  # experts are never compiled
    assert main([*f"{words} --out {tmp_path / 'run'} {SETTINGS} {compiled}".split(), "--json"]) == 0
    losses = [row["train/loss"] for row in read_log(tmp_path / "run") if "train/loss" in row]
    assert losses[-1] < losses[0]
    capsys.readouterr()
    assert (
        main(["generate", "--model", str(tmp_path / "run" / "final"), "--prompt", "In", "--max-tokens", "3"])
        == 0
    )
    assert capsys.readouterr().out.strip()


def test_a_windowed_model_goes_on_being_trained(workspace: Workspace, tmp_path: Path) -> None:
    tokenizer = load(workspace.tokenizer)
    numbers: dict[str, Any] = {
        "vocab": tokenizer.vocab_size,
        "dim": 32,
        "layers": 2,
        "heads": 4,
        "hidden": 48,
        "context": 64,
    }
    model = hf.build(LlamaConfig(model_type="qwen2", **numbers, window=8, full_layers=(0,)))
    write_model_folder(tmp_path / "model", model, tokenizer)
    words = (
        f"pretrain --model {tmp_path / 'model'} --data {workspace.shards} --tokenizer {workspace.tokenizer}"
    )
    assert main([*f"{words} --out {tmp_path / 'run'} {SETTINGS} loop.compile=false".split(), "--json"]) == 0
    again = hf.load_config(tmp_path / "run" / "final")
    assert (again.window, again.full_layers) == (8, (0,))


def test_new_experts_are_as_many_as_the_config_says() -> None:
    config = LlamaConfig(
        model_type="mixtral",
        vocab=9,
        dim=8,
        layers=2,
        heads=2,
        hidden=8,
        context=8,
        experts=3,
        experts_per_token=1,
    )
    layers = [module for module in hf.build(config).modules() if isinstance(module, MoE)]
    assert [len(layer.experts) for layer in layers] == [3, 3]


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("kv_heads", 2, "kv_heads 2 for 4 heads; 'bloom' has as many of both"),
        ("hidden", 100, "hidden 100: a BLOOM of these numbers has"),
    ],
)
def test_a_bloom_of_other_proportions_is_refused(
    name: str,
    value: int,
    told: str,
    workspace: Workspace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = f"pretrain --model bloom --data {workspace.shards} --tokenizer {workspace.tokenizer}"
    assert main(f"{words} --out {tmp_path / 'run'} {SETTINGS} architecture.{name}={value}".split()) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_bloom_of_early_entries_is_read() -> None:
    config = BloomConfig(vocab=9, dim=8, layers=2, heads=2)
    entries = config.to_hf()
    renamed = {"n_embed": entries.pop("hidden_size"), "num_attention_heads": entries.pop("n_head")}
    assert BloomConfig.from_hf(entries | renamed) == config
    assert dataclasses.replace(config, heads=1).head_dim == 8
