"""The stage `pretrain` on several processes: one run, one log, one model; killed anywhere it goes on."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from luban.errors import CheckpointError, ConfigError, LubanError, TrainingError
from luban.folder import RUN_FILE, AlreadyDone, read_json
from luban.inference.local import open_lm
from luban.models import hf
from luban.training import checkpoint, pretrain
from luban.training.config import ParallelConfig
from luban.training.loop import Fit
from luban.training.metrics import read_log
from luban.training.parallel.compression import WHOLE_STEPS
from luban.tuning import sft
from tests.conftest import Workspace
from tests.ranks import run_ranks
from tests.training.test_pretrain import LOOP, config_for

TWO = dataclasses.replace(LOOP, per_device_train_batch_size=2)
"""Half the rows on each of two processes: a step's rows are as many as with `LOOP`."""
TWICE = dataclasses.replace(TWO, gradient_accumulation_steps=2)
"""The same rows on one process, in two pieces."""


def two(workspace: Workspace, out: Path, **changes: Any) -> pretrain.Config:
    return config_for(workspace, out, **{"loop": TWO, "parallel": ParallelConfig(dp=2), **changes})


def train(config: pretrain.Config, event: Callable[[], None] | None = None) -> Any:
    """What a process of the stage ends with: results, an exit code, or the message of a mistake."""
    if event is not None:
        event()
    try:
        return pretrain.run(config, open_lm)
    except SystemExit as end:
        return end.code
    except LubanError as error:
        return str(error)
    except KeyboardInterrupt:
        return "interrupted"
    except AlreadyDone:
        return "done"


def when(last: int, rank: int, do: Callable[[], None]) -> None:
    """Have `do` happen on `rank` right after the step `last`."""
    advance = Fit._advance

    def advanced(self: Fit, step: int, batches: Iterator[Any]) -> None:
        advance(self, step, batches)
        if step == last and self.world.rank == rank:
            do()

    Fit._advance = advanced


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_7() -> None:
    when(7, 1, die)


def die_while_saving() -> None:
    """Both processes die with the checkpoint of step 10 half written."""
    from luban.training.parallel import states

    write = states.write

    def half(folder: Path, model: Any, optimizer: Any) -> None:
        write(folder, model, optimizer)
        if "step-00000010" in folder.parent.name:
            die()

    states.write = half


def terminate_at_8() -> None:
    when(8, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))


def interrupt_at_9() -> None:
    when(9, 0, lambda: os.kill(os.getpid(), signal.SIGINT))


def fail_at_3() -> None:
    def fail() -> None:
        raise TrainingError("something that only this process sees", where="rank 1")

    when(3, 1, fail)


@pytest.fixture(scope="module")
def one(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a single process."""
    config = config_for(workspace, tmp_path_factory.mktemp("one") / "run")
    pretrain.run(config, open_lm)
    return config.out


@pytest.fixture(scope="module")
def both(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> tuple[pretrain.Config, list[Any]]:
    """The same run of two processes, and what each returned."""
    config = two(workspace, tmp_path_factory.mktemp("both") / "run")
    return config, run_ranks(2, train, config)


def losses(out: Path) -> dict[tuple[int, str], float]:
    named = ("train/loss", "train/grad_norm", "val/loss")
    return {(line["step"], name): line[name] for line in read_log(out) for name in named if name in line}


@pytest.mark.slow
def test_two_processes_log_and_leave_what_one_does(
    one: Path, both: tuple[pretrain.Config, list[Any]]
) -> None:
    config, (first, second) = both
    assert losses(config.out) == pytest.approx(losses(one), abs=1e-5)
    assert first["tokens"] == second["tokens"] == read_json(one / RUN_FILE)["metrics"]["tokens"]
    whole = dict(hf.load(one / "final").named_parameters())
    for name, weight in hf.load(config.out / "final").named_parameters():
        assert weight.sub(whole[name]).abs().max().item() < 2e-4, name
    assert read_json(config.out / RUN_FILE)["done"]


@pytest.mark.slow
def test_a_finished_run_is_done_for_every_process(both: tuple[pretrain.Config, list[Any]]) -> None:
    assert run_ranks(2, train, both[0]) == ["done", "done"]


@pytest.mark.slow
def test_killed_processes_go_on_to_the_same_losses(
    both: tuple[pretrain.Config, list[Any]], tmp_path: Path
) -> None:
    whole, _ = both
    config = dataclasses.replace(whole, out=tmp_path / "run")
    for event in (die_at_7, die_while_saving):
        with pytest.raises((EOFError, ConnectionResetError)):
            run_ranks(2, train, config, event)
    newest = checkpoint.latest(config.out)
    assert newest is not None
    assert newest.name == "step-00000005"
    assert run_ranks(2, train, config, interrupt_at_9) == ["interrupted", "interrupted"]
    run_ranks(2, train, config)
    assert losses(config.out) == losses(whole.out)
    assert model_bytes(config.out) == model_bytes(whole.out)


def model_bytes(out: Path) -> bytes:
    return (out / "final" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_run_of_two_goes_on_in_one_with_the_same_rows_and_not_with_others(
    one: Path, workspace: Workspace, tmp_path: Path
) -> None:
    config = two(workspace, tmp_path / "run")
    assert run_ranks(2, train, config, terminate_at_8) == [0, 0]
    alone = config_for(workspace, config.out)
    with pytest.raises(CheckpointError, match="a step of this run has 4 rows, now 2"):
        pretrain.run(dataclasses.replace(alone, loop=TWO), open_lm)
    pretrain.run(dataclasses.replace(alone, loop=TWICE), open_lm)
    expected = losses(one)
    got = {key: value for key, value in losses(config.out).items() if key[1] != "val/loss"}
    assert got == pytest.approx({key: expected[key] for key in got}, abs=1e-5)


@pytest.mark.slow
def test_compressed_gradients_say_how_much_was_sent(workspace: Workspace, tmp_path: Path) -> None:
    loop = dataclasses.replace(TWO, max_steps=WHOLE_STEPS + 2)
    onebit = ParallelConfig(compress="onebit")
    config = two(workspace, tmp_path / "run", loop=loop, parallel=onebit, prompts=("In the",))
    run_ranks(2, train, config)
    assert len((config.out / "samples.jsonl").read_text().splitlines()) == 3  # and one process samples
    sent = [line["train/sent_bytes"] for line in read_log(config.out) if "train/sent_bytes" in line]
    whole, compressed = sent[1] - sent[0], sent[-1] - sent[-2]
    assert 0 < compressed < whole / 20


@pytest.mark.slow
def test_two_processes_tune_as_one_does(workspace: Workspace, tmp_path: Path) -> None:
    loop = dataclasses.replace(TWICE, max_length=256, max_steps=4)
    alone = sft.Config(
        model=workspace.model, data=(workspace.rows,), out=tmp_path / "one", loop=loop, threads=1
    )
    sft.run(alone)
    loop = dataclasses.replace(loop, gradient_accumulation_steps=1)
    shared = dataclasses.replace(alone, out=tmp_path / "two", loop=loop, parallel=ParallelConfig(zero=3))
    run_ranks(2, sft.run, shared)
    expected = losses(alone.out)
    got = {key: value for key, value in losses(shared.out).items() if key[1] != "val/loss"}
    assert got == pytest.approx({key: expected[key] for key in got}, abs=1e-5)


@pytest.mark.slow
def test_a_mistake_that_one_process_meets_ends_all_and_is_told_once(
    workspace: Workspace, tmp_path: Path
) -> None:
    first, second = run_ranks(2, train, two(workspace, tmp_path / "run"), fail_at_3)
    assert first == 2
    assert "something that only this process sees" in second


@pytest.mark.slow
def test_a_mistake_that_all_processes_meet_is_told_once(workspace: Workspace, tmp_path: Path) -> None:
    config = two(workspace, tmp_path / "run", parallel=ParallelConfig(offload=True))
    ended = run_ranks(2, train, config)
    assert sorted(map(type, ended), key=str) == [int, str]
    assert "offload is with zero 2 or 3, and zero is 0" in "".join(str(end) for end in ended)
    assert not (tmp_path / "run").exists()


def test_one_process_is_not_asked_to_share(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dp 2 x tp 1 x pp 1 = 2 processes, and there are 1"):
        pretrain.run(two(workspace, tmp_path / "run"), open_lm)


@pytest.mark.slow
def test_torchrun_starts_the_stage_and_one_process_speaks(workspace: Workspace, tmp_path: Path) -> None:
    words = f"pretrain --data {workspace.shards} --tokenizer {workspace.tokenizer} --out {tmp_path / 'run'} --json"
    words += " loop.max_steps=2 loop.per_device_train_batch_size=2 loop.max_length=32 loop.compile=false"
    words += " architecture.layers=1 architecture.dim=32 architecture.heads=2 --threads 1 parallel.zero=3"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, "-m", "luban", *words.split()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"tokens": 256') == done.stdout.count("{") == 1  # 2 steps x 4 rows x 32
    assert hf.load(tmp_path / "run" / "final")
