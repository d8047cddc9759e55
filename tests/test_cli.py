"""The command line on bad input: one clear message, the right exit code, nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from luban.cli import main
from tests.conftest import Workspace


def fails(words: str, capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    """What the command says on stderr when it ends with `code`."""
    assert main(words.split()) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err


def test_an_unknown_stage_or_verb_is_told_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown stage 'pretran'; did you mean 'pretrain'?" in fails("pretran", capsys)
    assert "unknown verb 'chek'; did you mean 'check'?" in fails("data chek", capsys)
    assert "'tokenizer' needs one of: train, compare, explain, extend" in fails("tokenizer", capsys)


def test_an_unknown_setting_is_told_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    said = fails("pretrain optimizer.learnin_rate=1", capsys)
    assert "unknown setting 'optimizer.learnin_rate'; did you mean 'optimizer.learning_rate'?" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("data prepare --data {tmp}/none --out {tmp}/out", "none"),
        ("data prepare --data {tmp}/empty --out {tmp}/out", "empty"),
        ("data mix {documents} {tmp}/bad.jsonl --out {tmp}/out", "bad.jsonl:2: not valid JSON"),
        ("tokenizer train --data {tmp}/none --out {tmp}/out", "no such file or folder"),
        ("data shards --data {documents} --tokenizer {tmp}/empty --out {tmp}/out", "tokenizer.json"),
        ("pretrain --data {tmp}/none --tokenizer {tokenizer} --out {tmp}/out", "none"),
        ("pretrain --data {documents} --tokenizer {tokenizer} --out {tmp}/out", "shards"),
        ("pretrain --data {shards} --tokenizer {tokenizer} --out {tmp}/bad.jsonl", "a file, not a folder"),
        ("sft --model {tmp}/empty --data {rows} --out {tmp}/out", "empty"),
        (
            "sft --model {model} --data {tmp}/bad.jsonl --out {tmp}/out --on-bad-row stop",
            "bad.jsonl:2: not valid JSON",
        ),
        ("eval --model {tmp}/none --questions {rows}", "none"),
        ("chat --model {documents} --prompt hello", "documents"),
        ("generate --model {model} --prompt hello --top-p 7", "'top_p' is 7"),
        ("generate --model {model} --prompt hello --device gpu", "unknown device 'gpu'"),
        ("fetch smollm3", "smollm2"),
    ],
)
def test_bad_input_is_one_message_that_names_it(
    words: str, message: str, workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.jsonl").write_text('{"text": "fine"}\n{"text": "broken\n', encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    places = {name: str(path) for name, path in vars(workspace).items()}
    assert message in fails(words.format(**places, tmp=tmp_path), capsys)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_corrupted_shard_is_named(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    for path in workspace.shards.iterdir():
        content = path.read_bytes()
        (shards / path.name).write_bytes(content[:-2] if path.suffix == ".bin" else content)
    words = f"pretrain --data {shards} --tokenizer {workspace.tokenizer} --out {tmp_path / 'out'}"
    assert "tokens-00000.bin" in fails(words, capsys)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_said_and_leaves_nothing(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_file: int) -> None:
        raise OSError(28, os.strerror(28), "disk")

    monkeypatch.setattr(os, "fsync", full)
    assert "the disk is full" in fails(f"data mix {workspace.documents} --out {tmp_path / 'out'}", capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_checkpoint_that_does_not_fit_is_refused_before_it_is_written(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1))
    out = tmp_path / "out"
    words = f"pretrain --data {workspace.shards} --tokenizer {workspace.tokenizer} --out {out}"
    assert "the disk is full" in fails(f"{words} loop.max_steps=1 loop.compile=false", capsys)
    assert not list(out.glob("checkpoints/*"))
    assert not (out / "final").exists()


@pytest.mark.slow
def test_ctrl_c_exits_130_and_the_same_command_goes_on(tmp_path: Path) -> None:
    big = tmp_path / "big.jsonl"
    big.write_text("".join(f'{{"text": "word {n}"}}\n' for n in range(1_000_000)), encoding="utf-8")
    words = ["data", "prepare", "--data", str(big), "--out", str(tmp_path / "out"), "--part-mb", "2"]
    command = [sys.executable, "-m", "luban", *words]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        # A shell starts what it runs in the background with Ctrl-C ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not list(tmp_path.glob("out/stages/00-text/stats/*.json")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert "interrupted" in said
    assert "Traceback" not in said
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0
    lines = sum(path.read_bytes().count(b"\n") for path in (tmp_path / "out").glob("*.jsonl"))
    assert lines == 1_000_000


def test_a_stage_of_one_process_is_not_run_by_several(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["models"]) == 2
    assert "luban models: this stage runs in one process, and there are 2" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "1")  # the first one has told it
    assert main(["models"]) == 2
    assert capsys.readouterr().err == ""
