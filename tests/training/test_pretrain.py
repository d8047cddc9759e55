"""The stage `pretrain`: it learns, it leaves a model folder, and killed at any moment it goes on bit for bit."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from luban.errors import CheckpointError, ConfigError, ModelError
from luban.folder import AlreadyDone
from luban.inference.local import open_lm
from luban.models import hf
from luban.training import checkpoint, pretrain
from luban.training.architecture import ArchitectureConfig
from luban.training.config import LoopConfig, OptimizerConfig
from luban.training.metrics import read_log
from tests import tiny
from tests.conftest import Workspace

LOOP = LoopConfig(
    max_steps=12, per_device_train_batch_size=4, max_length=32, compile=False, logging_steps=1, save_steps=5
)


def config_for(workspace: Workspace, out: Path, **changes: Any) -> pretrain.Config:
    config = pretrain.Config(
        data=(workspace.shards,),
        tokenizer=workspace.tokenizer,
        validation=workspace.held_out,
        out=out,
        architecture=ArchitectureConfig(layers=2, dim=32, heads=4, kv_heads=2),
        optimizer=OptimizerConfig(warmup_steps=2),
        loop=LOOP,
        threads=1,
    )
    return dataclasses.replace(config, **changes)


def final_weights(out: Path) -> bytes:
    return (out / "final" / "model.safetensors").read_bytes()


def losses(out: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["train/loss"]) for line in read_log(out) if "train/loss" in line]


def test_training_lowers_the_held_out_loss_and_leaves_a_model_that_speaks(
    workspace: Workspace, tmp_path: Path
) -> None:
    loop = dataclasses.replace(LOOP, max_steps=150, per_device_train_batch_size=8)
    config = config_for(workspace, tmp_path / "run", loop=loop, prompts=("In the",))
    results = pretrain.run(config, open_lm)
    log = read_log(config.out)
    before, after = (line["val/loss"] for line in (log[0], log[-1]))
    assert before > 5.7  # near log(384) = 5.95: knows nothing
    assert after < before - 0.8
    assert results["val/bpb"] == pytest.approx(log[-1]["val/bpb"])
    samples = [json.loads(line) for line in (config.out / "samples.jsonl").read_text().splitlines()]
    assert [row["step"] for row in samples] == [0, 75, 150]
    assert open_lm(str(config.out / "final")).score([("", "In the beginning")])[0].logps
    assert (config.out / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_run_is_not_run_again_and_another_one_does_not_replace_it(
    workspace: Workspace, tmp_path: Path
) -> None:
    config = config_for(workspace, tmp_path / "run")
    pretrain.run(config, open_lm)
    with pytest.raises(AlreadyDone):
        pretrain.run(config, open_lm)
    with pytest.raises(ConfigError, match=r"holds another run \(different: config\.seed\)"):
        pretrain.run(dataclasses.replace(config, seed=9), open_lm)


@pytest.mark.slow
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_run_goes_on_to_the_same_losses_and_weights(
    workspace: Workspace, tmp_path: Path, kill: signal.Signals
) -> None:
    loop = dataclasses.replace(LOOP, max_steps=60)
    whole = config_for(workspace, tmp_path / "whole", loop=loop)
    pretrain.run(whole, open_lm)
    cut = dataclasses.replace(whole, out=tmp_path / "cut")
    for steps_before_kill in (7, 23, 41):
        code = kill_when_logged(cut, steps_before_kill, kill)
        assert code == {signal.SIGKILL: -9, signal.SIGTERM: 0, signal.SIGINT: 130}[kill]
    pretrain.run(cut, open_lm)
    assert losses(cut.out) == losses(whole.out)
    assert final_weights(cut.out) == final_weights(whole.out)


def kill_when_logged(config: pretrain.Config, steps: int, kill: signal.Signals) -> int:
    """Start the stage as a process, kill it once it has logged `steps`, and return its exit code."""
    words = ["pretrain", "--data", *map(str, config.data), "--tokenizer", str(config.tokenizer)]
    words += ["--validation", str(config.validation), "--out", str(config.out), "--threads", "1"]
    words += [
        "architecture.layers=2",
        "architecture.dim=32",
        "architecture.heads=4",
        "architecture.kv_heads=2",
    ]
    loop = config.loop
    words += [f"loop.max_steps={loop.max_steps}", "loop.per_device_train_batch_size=4", "loop.max_length=32"]
    words += ["loop.compile=false", "loop.logging_steps=1", "loop.save_steps=5", "optimizer.warmup_steps=2"]
    process = subprocess.Popen([sys.executable, "-m", "luban", *words], stderr=subprocess.DEVNULL)
    while process.poll() is None and len(losses(config.out)) < steps:
        time.sleep(0.01)
    process.send_signal(kill)
    return process.wait()


def test_a_damaged_checkpoint_is_refused_by_name(workspace: Workspace, tmp_path: Path) -> None:
    config = config_for(workspace, tmp_path / "run")
    pretrain.run(config, open_lm)
    newest = checkpoint.latest(config.out)
    assert newest is not None
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    (config.out / "run.json").write_text(
        (config.out / "run.json").read_text().replace('"done": true', '"done": false')
    )
    with pytest.raises(CheckpointError, match=r"'model\.safetensors' is missing or not as it was written"):
        pretrain.run(config, open_lm)


def test_only_the_newest_checkpoints_are_kept(workspace: Workspace, tmp_path: Path) -> None:
    config = config_for(workspace, tmp_path / "run")
    pretrain.run(config, open_lm)
    kept = sorted(path.name for path in (config.out / "checkpoints").glob("step-*"))
    assert kept == ["step-00000010", "step-00000012"]


def test_shards_of_another_tokenizer_are_refused(workspace: Workspace, tmp_path: Path) -> None:
    from luban.data import vocabulary

    other = vocabulary.Config(data=(workspace.documents,), out=tmp_path / "tok", vocab=300)
    vocabulary.run(other)
    with pytest.raises(ConfigError, match="a vocabulary of 384, the tokenizer has 300"):
        pretrain.run(config_for(workspace, tmp_path / "run", tokenizer=other.out), open_lm)
    assert not (tmp_path / "run").exists()


def test_numbers_that_make_no_model_are_refused_before_anything_is_written(
    workspace: Workspace, tmp_path: Path
) -> None:
    shape = ArchitectureConfig(layers=1, dim=30, heads=4)
    with pytest.raises(ModelError, match="dim 30 is not a multiple of heads 4"):
        pretrain.run(config_for(workspace, tmp_path / "run", architecture=shape), open_lm)
    assert not (tmp_path / "run").exists()


def test_a_model_too_small_for_tokenizer_or_rows_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    loop = dataclasses.replace(LOOP, max_length=300)
    with pytest.raises(ConfigError, match="rows of 300 tokens are longer than the model's window of 256"):
        pretrain.run(config_for(workspace, tmp_path / "run", model=workspace.model, loop=loop), open_lm)
    small = tmp_path / "small"
    hf.save(tiny.llama(vocab=100), small)
    with pytest.raises(ConfigError, match="the tokenizer has 384 ids and the model 100"):
        pretrain.run(config_for(workspace, tmp_path / "run", model=small), open_lm)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_compiled_training_equals_eager_training(workspace: Workspace, tmp_path: Path) -> None:
    for name, compiled in (("eager", False), ("compiled", True)):
        loop = dataclasses.replace(LOOP, compile=compiled)
        pretrain.run(config_for(workspace, tmp_path / name, loop=loop), open_lm)
    eager, compiled_losses = (dict(losses(tmp_path / name)) for name in ("eager", "compiled"))
    assert eager == pytest.approx(compiled_losses, abs=1e-4)
