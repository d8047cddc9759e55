"""Stage `generate`: where prompts come from, what is returned and shown."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from luban.config import load
from luban.errors import ConfigError, DataError
from luban.inference.complete import Config, run, sampling_of, show
from luban.lm import Generation, Sampling
from tests.inference.echo import EchoLM


def config(*words: str) -> Config:
    return load(Config, ["--model", "echo", *words], where="luban generate")


def test_each_prompt_gets_its_continuation() -> None:
    results = run(config("--prompt", "one", "two"), EchoLM)
    assert [(row["prompt"], row["text"]) for row in results["generations"]] == [
        ("one", " one"),
        ("two", " two"),
    ]


def test_a_prompt_may_be_given_again() -> None:
    assert config("--prompt", "one", "--prompt", "two").prompt == ("one", "two")


def test_sampling_settings_are_top_level_and_reach_the_model() -> None:
    seen: list[Sampling] = []

    class Listener(EchoLM):
        def generate(self, prompts: Sequence[str], sampling: Sampling) -> list[Generation]:
            seen.append(sampling)
            return super().generate(prompts, sampling)

    run(
        config("--prompt", "x", "--max-tokens", "7", "--top-p", "0.5", "--stop", "a", "b", "--seed", "3"),
        Listener,
    )
    assert seen == [Sampling(max_tokens=7, top_p=0.5, stop=("a", "b"), seed=3)]


def test_without_a_seed_a_fresh_one_is_taken_and_told() -> None:
    assert sampling_of(config("--prompt", "x")).seed is not None
    assert isinstance(run(config("--prompt", "x"), EchoLM)["seed"], int)


def test_prompts_come_from_the_lines_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("one\n\n鲁班\n", encoding="utf-8")
    results = run(config("--prompts", str(file)), EchoLM)
    assert [row["prompt"] for row in results["generations"]] == ["one", "鲁班"]


def test_prompts_come_from_the_rows_of_a_jsonl_file(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "one\\ntwo"}\n', encoding="utf-8")
    assert run(config("--prompts", str(file)), EchoLM)["generations"][0]["prompt"] == "one\ntwo"


@pytest.mark.parametrize(("row", "problem"), [("{", "not valid JSON"), ('{"text": "a"}', "string 'prompt'")])
def test_a_bad_row_of_prompts_is_named_by_its_line(tmp_path: Path, row: str, problem: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(f'{{"prompt": "ok"}}\n{row}\n', encoding="utf-8")
    with pytest.raises(DataError, match=f"prompts.jsonl:2: .*{problem}"):
        run(config("--prompts", str(file)), EchoLM)


def test_the_prompt_may_come_through_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Once upon\n"))
    assert run(config(), EchoLM)["generations"][0]["prompt"] == "Once upon"


def test_no_prompt_at_all_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(ConfigError, match="--prompt TEXT"):
        run(config(), EchoLM)


def test_text_goes_to_stdout_and_everything_else_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    show(run(config("--prompt", "[one]"), EchoLM))
    captured = capsys.readouterr()
    assert captured.out == "[one] [one]\n"
    assert "tokens/s" in captured.err
    assert "stop" in captured.err


@pytest.mark.parametrize("stage", ["complete", "chat"])
def test_a_stage_is_imported_without_torch(stage: str) -> None:
    code = f"import luban.inference.{stage}, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
