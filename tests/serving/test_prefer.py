"""The stage `prefer`: what it refuses before it serves, and a session of a real command whose rows are then learnt."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from luban.alignment import dpo, reward
from luban.alignment.pair_stage import PairLoop
from luban.device import DeviceConfig
from luban.errors import ConfigError, DataError, LubanError, MachineError, ModelError, PromptError
from luban.folder import RUN_FILE, read_json
from luban.inference import local
from luban.inference.local import LocalLM
from luban.serving import prefer
from luban.serving.pairing import Pairing
from luban.serving.votes import PREFERENCES, UNDECIDED
from luban.training.checkpoint import write_model_folder
from tests import tiny
from tests.serving.prefer_page import QUESTIONS, Page, rows, write_prompts


def open_lm(folder: str) -> LocalLM:
    """As the command line opens it."""
    return local.open_lm(folder, DeviceConfig(threads=1))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Folders of two random tiny models."""
    made = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp("models") / f"model{seed}"
        folder.mkdir()
        torch.manual_seed(seed)
        write_model_folder(folder, tiny.llama(context=128), tiny.tokenizer())
        made.append(str(folder))
    return made[0], made[1]


@pytest.fixture
def config_for(models: tuple[str, str], tmp_path: Path) -> Callable[..., prefer.Config]:
    """A config of both models and three prompts, with changes."""

    def config(**changes: Any) -> prefer.Config:
        prompts = write_prompts(tmp_path / "prompts.jsonl")
        told: dict[str, Any] = {"models": models, "prompts": prompts, "out": tmp_path / "out", "threads": 1}
        told |= {"port": 0, "max_tokens": 8}
        return prefer.Config(**told | changes)

    return config


def fails(config: prefer.Config, kind: type[LubanError], message: str) -> None:
    with pytest.raises(kind, match=message):
        prefer.run(config, open_lm)
    assert not config.out.exists()


@pytest.mark.parametrize("models", [(), ("a", "a"), ("a", "b", "c")])
def test_one_model_or_two_different_ones_are_compared(models: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="setting 'models': one model, or two different ones"):
        prefer.Config(models=models, out=tmp_path)


def test_a_model_that_is_not_there_or_cannot_chat_is_told_before_anything_is_written(
    config_for: Callable[..., prefer.Config], tmp_path: Path
) -> None:
    fails(config_for(models=(str(tmp_path / "none"),)), DataError, "no such file or folder")
    (tmp_path / "empty").mkdir()
    fails(config_for(models=(str(tmp_path / "empty"),)), ModelError, r"not a model folder: config\.json")
    torch.manual_seed(0)
    (tmp_path / "plain").mkdir()
    write_model_folder(tmp_path / "plain", tiny.llama(), tiny.tokenizer_with(None))
    fails(config_for(models=(str(tmp_path / "plain"),)), PromptError, "no chat template")


def test_a_file_without_prompts_or_with_one_that_is_too_long_is_told(
    config_for: Callable[..., prefer.Config], tmp_path: Path
) -> None:
    (tmp_path / "none.jsonl").write_text("", encoding="utf-8")
    fails(config_for(prompts=tmp_path / "none.jsonl"), DataError, "no rows in this file")
    long = write_prompts(tmp_path / "long.jsonl", ["short", "long " * 99])
    fails(config_for(prompts=long), DataError, r"long\.jsonl:2: the prompt has \d+ tokens and the window of")


def test_a_port_that_is_taken_is_told(config_for: Callable[..., prefer.Config]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        fails(config_for(port=port), MachineError, rf"127\.0\.0\.1:{port}: the port is taken")


def test_an_address_that_is_not_this_machines_is_told(config_for: Callable[..., prefer.Config]) -> None:
    fails(config_for(host="192.0.2.1"), MachineError, r"192\.0\.2\.1:0: cannot listen here")
    fails(config_for(host="no.such.host.invalid"), ConfigError, "no such address")


def test_what_to_install_is_told(
    config_for: Callable[..., prefer.Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    fails(
        config_for(), MachineError, r"needs uvicorn, which is not installed\n.*pip install 'luban\[serve\]'"
    )


@pytest.fixture
def served_by(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[Pairing, str]]]:
    """Runs the stage up to where it would serve; gives what it would, and the address."""
    with contextlib.ExitStack() as stack:

        def caught(config: prefer.Config, opener: Any = open_lm) -> tuple[Pairing, str]:
            found: list[tuple[Pairing, str]] = []

            def stop(_: Any, pairing: Pairing, listening: socket.socket) -> None:
                stack.callback(pairing.close)
                found.append((pairing, "{}:{}".format(*listening.getsockname())))

            monkeypatch.setattr(prefer, "_serve", stop)
            prefer.run(config, opener)
            return found[0]

        yield caught


def first_pair(pairing: Pairing) -> tuple[str, str]:
    """Both answers of the first pair."""
    while not (pair := pairing.current()) or not pair.done:
        time.sleep(0.01)
    return pair.a.text, pair.b.text


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"temperature": 0.01}, {"top_p": 0.001}, {"max_tokens": 4}, {"models": 0}]
)
def test_a_setting_of_the_answers_changes_them(
    change: dict[str, Any],
    config_for: Callable[..., prefer.Config],
    models: tuple[str, str],
    served_by: Callable[..., tuple[Pairing, str]],
    tmp_path: Path,
) -> None:
    if "models" in change:
        change = {"models": models[1:]}
    opener = functools.cache(open_lm)
    same, again = (first_pair(served_by(config_for(out=tmp_path / name), opener)[0]) for name in "ab")
    assert same == again
    assert first_pair(served_by(config_for(out=tmp_path / "c", **change), opener)[0]) != same


def test_mode_prompts_again_host_and_port_reach_the_page(
    config_for: Callable[..., prefer.Config], served_by: Callable[..., tuple[Pairing, str]], tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = config_for(mode="harmless", host="localhost", port=port)
    pairing, address = served_by(config)
    assert (pairing.mode, pairing.total, pairing.asked) == ("harmless", 3, 0)
    assert address == f"127.0.0.1:{port}"
    (config.out / UNDECIDED).write_text(
        json.dumps({"prompt": [{"role": "user", "content": QUESTIONS[0]}]}) + "\n", encoding="utf-8"
    )
    assert served_by(config_for(mode="harmless"))[0].asked == 1
    assert served_by(config_for(mode="harmless", again=True))[0].asked == 0
    assert served_by(config_for(out=tmp_path / "typed", prompts=None))[0].total == 0


def test_a_folder_goes_on_with_the_same_prompts_models_and_mode_only(
    config_for: Callable[..., prefer.Config], served_by: Callable[..., tuple[Pairing, str]], tmp_path: Path
) -> None:
    served_by(config_for())
    with pytest.raises(ConfigError, match=r"holds another run \(different: config\.mode\)"):
        served_by(config_for(mode="harmless"))
    with pytest.raises(ConfigError, match=r"config\.max_tokens"):
        served_by(config_for(max_tokens=9))
    config = config_for()
    write_prompts(tmp_path / "prompts.jsonl", [*QUESTIONS, "One more?"])
    with pytest.raises(ConfigError, match=r"different: inputs\)"):
        served_by(config)


def test_the_browser_is_opened_if_told_so(
    config_for: Callable[..., prefer.Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    import uvicorn

    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setattr(uvicorn.Server, "run", lambda *_, **__: None)
    prefer.run(config_for(), open_lm)
    assert not opened
    prefer.run(config_for(browser=True), open_lm)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", opened[0])


@contextlib.contextmanager
def command(*words: str) -> Iterator[tuple[subprocess.Popen[str], Page]]:
    """`luban prefer` as a process of its own, and its page."""
    process = subprocess.Popen(
        [sys.executable, "-m", "luban", "prefer", *words, "--port", "0", "--threads", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # a shell may have told it to ignore Ctrl-C
    )
    try:
        assert process.stderr
        said = ""
        while not (url := re.search(r"prefer: (http://\S+)/ ", line := process.stderr.readline())):
            said += line
            assert line, said
        yield process, Page(url[1])
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_votes_of_a_real_command_are_learnt_by_reward_and_dpo(
    models: tuple[str, str], tmp_path: Path
) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", [f"Question {n}?" for n in range(6)])
    out = tmp_path / "votes"
    words = ("--models", *models, "--prompts", str(prompts), "--out", str(out), "--max-tokens", "8", "--json")
    with command(*words) as (process, page):
        for verdict in ("a", "b", "a"):
            assert page.vote(verdict, 2)[0] == 200
        process.send_signal(signal.SIGINT)
        told, said = process.communicate(timeout=60)
        assert (process.returncode, "Traceback" in said) == (0, False)
        assert json.loads(told) == {"preferences": 3, "undecided": 0, "file": str(out / PREFERENCES)}
    with command(*words) as (process, page):
        assert page.state()["asked"] == 3
        assert page.vote("skip")[0] == 200
        while page.pair():
            assert page.vote("b", 1)[0] == 200
        process.kill()  # a vote that was answered is on the disk
    kept = rows(out / PREFERENCES)
    assert len(kept) == 5
    assert {frozenset(row["models"]) for row in kept} == {frozenset(models)}
    assert {reason for row in kept for reason in row["finish_reasons"]} <= {"stop", "length"}
    assert read_json(out / RUN_FILE)["stage"] == "prefer"
    _learn(models[0], out, tmp_path)


def _learn(model: str, votes: Path, tmp_path: Path) -> None:
    """One step of each stage that learns from pairs, from the folder as it stands."""
    loop = PairLoop(max_steps=1, per_device_train_batch_size=2, max_length=256, compile=False, save_steps=0)
    told: dict[str, Any] = {
        "model": Path(model),
        "data": (votes,),
        "validation": 0.4,
        "loop": loop,
        "threads": 1,
    }
    for stage in (reward, dpo):
        out = tmp_path / stage.__name__.rpartition(".")[2]
        results = stage.run(stage.Config(out=out, **told))
        assert (results["rows"], results["rejected"]) == (5, 0)
        assert (out / "final" / "model.safetensors").is_file()
