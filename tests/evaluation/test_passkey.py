"""The stage `eval passkey`: prompts of the length and depth they claim, and a map that shows how far a model sees."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from luban.cli import main
from luban.errors import ConfigError, PromptError
from luban.evaluation import passkey
from luban.evaluation.passkey import FILLER, QUESTION, cells, hidden, hide, retrieval
from luban.inference.local import open_lm
from tests import tiny
from tests.conftest import Workspace
from tests.evaluation.readers import finder

CONFIG = passkey.Config(models=("m",), lengths=(200, 400), depths=(0.0, 0.5, 1.0), samples=4)


def prompt(depth: float, length: int = 300, sample: int = 0, **changes: Any) -> passkey.Hidden:
    config = dataclasses.replace(CONFIG, **changes)
    return hidden(config, FILLER.split(), tiny.tokenizer(), length, depth, sample)


@pytest.mark.parametrize("length", [80, 150, 700])
def test_a_prompt_and_its_answer_have_the_tokens_they_are_to_have(length: int) -> None:
    one = prompt(0.3, length)
    tokens = len(tiny.tokenizer().encode(one.prompt + one.answer))
    longest = max(len(tiny.tokenizer().encode(f" {word}")) for word in FILLER.split())
    assert length - longest < tokens <= length  # one more word of the filler would not fit


def test_the_number_stands_at_the_depth_that_was_asked_for() -> None:
    words = [f"w{place}" for place in range(8)]
    told = "The pass key is 42. Remember it. 42 is the pass key."
    assert hide(words, "42", 0.0) == f"{told} w0 w1 w2 w3 w4 w5 w6 w7 {QUESTION}"
    assert hide(words, "42", 0.25) == f"w0 w1 {told} w2 w3 w4 w5 w6 w7 {QUESTION}"
    assert hide(words, "42", 1.0) == f"w0 w1 w2 w3 w4 w5 w6 w7 {told} {QUESTION}"


def test_prompts_differ_by_sample_and_seed_and_are_the_same_again() -> None:
    assert prompt(0.5) == prompt(0.5)
    answers = {prompt(0.5, sample=sample, seed=seed).answer for sample in range(3) for seed in range(3)}
    assert len(answers) == 9
    assert all(len(answer) == 6 for answer in answers)


def test_a_model_that_sees_everything_finds_every_number() -> None:
    asked = cells(CONFIG, FILLER.split(), tiny.tokenizer())
    assert retrieval(finder(10**9), asked) == [[1.0, 1.0]] * 3


def test_a_model_that_sees_only_the_end_finds_only_what_stands_there() -> None:
    asked = cells(CONFIG, FILLER.split(), tiny.tokenizer())
    needle, question = len("The pass key is 12345. Remember it. 12345 is the pass key. "), len(QUESTION)
    assert retrieval(finder(needle + question), asked) == [[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]]


def test_the_filler_begins_at_places_that_differ(workspace: Workspace) -> None:
    documents = (workspace.documents,)
    words = passkey.read_filler(documents)
    config = dataclasses.replace(CONFIG, filler=documents)
    begun = {
        hidden(config, words, tiny.tokenizer(), 200, 1.0, sample).prompt.split()[0] for sample in range(9)
    }
    assert len(begun) > 3


def test_a_length_that_does_not_hold_the_question_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"16 tokens do not hold the number and the question, which are \d\d"
    ):
        prompt(0.5, 16)


def test_a_length_beyond_a_models_window_is_refused(workspace: Workspace) -> None:
    config = passkey.Config(models=(str(workspace.model),), lengths=(300,), samples=1, threads=1)
    with pytest.raises(PromptError, match="window 256"):
        passkey.run(config, open_lm)


def test_the_stage_leaves_a_map_and_its_numbers(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", "passkey", "--models", str(workspace.model), "--lengths", "100", "200", "--samples", "2"]
    assert main([*words, "--out", str(tmp_path / "keys"), "--threads", "1", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["found"] == {"model": [[0.0, 0.0]] * 5}  # a random model finds nothing
    assert json.loads((tmp_path / "keys" / passkey.RESULTS).read_text()) == results
    assert (tmp_path / "keys" / passkey.PICTURE).read_bytes().startswith(b"\x89PNG")
