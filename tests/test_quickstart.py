"""The whole way in small: interrupted, continued, and ending in the table a sceptic asks for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from luban import quickstart as quickstart_stage
from luban.folder import read_json
from luban.training.metrics import read_log
from tests.alignment.planted import plant, write_rows

pytestmark = pytest.mark.slow


def quickstart(out: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "luban", "quickstart", "--out", str(out), "--json", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_an_interrupted_quickstart_goes_on_where_it_was_and_ends_in_the_table(tmp_path: Path) -> None:
    first = quickstart(tmp_path, "--minutes", "0.15")
    while first.poll() is None and not [line for line in read_log(tmp_path / "base") if "train/loss" in line]:
        time.sleep(0.1)
    for child in children(first.pid):  # what a terminal's Ctrl-C reaches
        os.kill(child, signal.SIGINT)
    first.send_signal(signal.SIGINT)
    _, said = first.communicate()
    assert first.returncode == 130, said
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "tokenizer").iterdir()}

    out, said = quickstart(tmp_path, "--minutes", "0.15").communicate()
    results = json.loads(out.splitlines()[-1])
    assert "already done with these settings and inputs" in said
    assert {path: path.stat().st_mtime_ns for path in made} == made
    bits = {name: row["per_byte"] for name, row in results["bits_per_byte"].items()}
    assert bits["unigram"] < bits["uniform"]
    assert (
        bits["model"] < bits["uniform"]
    )  # nine seconds of training, fewer on a busy machine, promise no more
    assert [row["step"] for row in results["samples"]][::2] == sorted(
        {row["step"] for row in results["samples"]}
    )
    assert results["before tuning"]["asked"] == results["after tuning"]["asked"] == 300
    assert (tmp_path / "tuned" / "final" / "model.safetensors").is_file()
    assert read_json(tmp_path / "base" / "run.json")["done"]


def test_the_alignment_of_the_quickstart_raises_reward_and_preferred_share(
    tmp_path: Path, monkeypatch: Any
) -> None:
    root = plant(tmp_path / "planted")
    asked = [json.loads(line)["prompt"] for line in (root / "held-out.jsonl").read_text().splitlines()]
    unseen = [
        talk for prompt in asked for talk in [{"messages": [say("user", prompt), say("assistant", "no")]}]
    ]
    write_rows(root / "unseen.jsonl", unseen)
    monkeypatch.setattr(quickstart_stage, "ROUNDS", 15)
    monkeypatch.setattr(quickstart_stage, "POLICY_RATE", 5e-4)  # the model has 60 thousand weights
    monkeypatch.setattr(quickstart_stage, "LONGEST_ANSWER", 16)
    results = quickstart_stage._aligned(
        root / "sft" / "final", root / "talks.jsonl", root / "unseen.jsonl", tmp_path / "out", "regex:^yes"
    )
    before, after = results["preferred"]
    assert before < 0.4
    assert after > before + 0.2
    assert results["reward"][1] > results["reward"][0]
    assert Path(results["aligned"], "model.safetensors").is_file()


def say(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def test_the_real_assistant_makes_sense(tmp_path: Path) -> None:
    out, said = quickstart(tmp_path, "--model", "smollm2").communicate()
    assert "Paris" in out, said


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in listed.split()]
