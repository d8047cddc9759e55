"""The stage `data pairs`: pairs differ in what was asked for, and in nothing else that was chosen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from luban.alignment import checked_pairs
from luban.alignment.preference_rows import to_preferences
from luban.alignment.properties import property_named
from luban.errors import ConfigError, DataError
from luban.lm import Generation, Sampling

SAID = ["blue", "why?", "it is blue", "what else?"]


class Fake:
    """Answers a prompt with the next of a few sentences each time."""

    name = "fake"
    context = 200
    asked = 0

    def count(self, conversation: Sequence[Any]) -> int:
        """See `ChatLM.count`; a letter is a token."""
        return sum(len(message["content"]) for message in conversation)

    def chat(self, conversations: Sequence[Any], sampling: Sampling) -> list[Generation]:
        """See `LM.chat`."""
        assert sampling.seed is None  # one seed for all prompts would give them the same luck
        self.asked += 1
        return [
            Generation(text=SAID[(self.asked + place) % 4], tokens=[], logps=[], prompt_tokens=1,
                       finish_reason="length" if place == 0 else "stop")
            for place in range(len(conversations))
        ]  # fmt: skip


def write(path: Path, count: int = 6) -> Path:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"sky {n}?"},
                {"role": "assistant", "content": "grey " * (n + 1)},
                {"role": "user", "content": f"sea {n}?"},
                {"role": "assistant", "content": f"deep {n} " * (n + 1)},
            ]
        }
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "pairs.jsonl").read_text("utf-8").splitlines()]


def test_a_models_best_answer_stands_against_its_worst_one(tmp_path: Path) -> None:
    config = checked_pairs.Config(data=(write(tmp_path / "r.jsonl"),), out=tmp_path / "out", model=tmp_path)
    results = checked_pairs.run(config, lambda _: Fake())  # pyright: ignore[reportArgumentType] - all that is asked of it
    rows = rows_of(tmp_path / "out")
    assert results["prompts"] == 6
    assert results["answers"] == 20  # those of the first prompt never end
    assert results["property"] == 0.5
    assert len(rows) == results["pairs"] == 5
    assert all(row["chosen"].endswith("?") and not row["rejected"].endswith("?") for row in rows)
    assert all(to_preferences(row, where="f") for row in rows)


def test_a_prompt_that_leaves_no_room_for_an_answer_is_left_out(tmp_path: Path) -> None:
    data = write(tmp_path / "r.jsonl", 30)  # the thirtieth one's first answer has 150 letters
    config = checked_pairs.Config(data=(data,), out=tmp_path / "out", model=tmp_path)
    results = checked_pairs.run(config, lambda _: Fake())  # pyright: ignore[reportArgumentType] - all that is asked of it
    assert (results["prompts"], results["too_long"]) == (24, 6)


def test_a_prompt_is_the_last_turns_before_the_answer(tmp_path: Path) -> None:
    data = write(tmp_path / "r.jsonl")
    for turns, expected in ((3, 3), (2, 1), (1, 1)):
        config = checked_pairs.Config(data=(data,), out=tmp_path / str(turns), turns=turns)
        checked_pairs.run(config, lambda _: Fake())  # pyright: ignore[reportArgumentType] - not asked
        prompts = [row["prompt"] for row in rows_of(tmp_path / str(turns))]
        assert {len(prompt) for prompt in prompts} == {expected}
        assert all(prompt[0]["role"] == prompt[-1]["role"] == "user" for prompt in prompts)


def test_strangers_are_as_long_as_the_answers_they_stand_against(tmp_path: Path) -> None:
    config = checked_pairs.Config(data=(write(tmp_path / "r.jsonl", 60),), out=tmp_path / "out")
    results = checked_pairs.run(config, lambda _: Fake())  # pyright: ignore[reportArgumentType] - not asked
    rows = rows_of(tmp_path / "out")
    assert results["pairs"] == 60
    assert 0.3 < results["chosen_is_longer"] < 0.7
    assert max(abs(len(row["chosen"]) - len(row["rejected"])) for row in rows) < 120
    own = {row["prompt"][-1]["content"]: row["chosen"] for row in rows}
    assert all(f"deep {asked[4:-1]} " in answer for asked, answer in own.items())


@pytest.mark.parametrize(
    ("spec", "better", "worse"),
    [
        ("question", "what now?", "so it is."),
        ("shorter", "yes", "yes it is"),
        ("longer", "yes it is", "yes"),
        ("fresh", "green meadows", "blue blue sky"),
        ("regex:^[a-z ]+$", "so it is", "So, it is!"),
    ],
)
def test_properties_tell_answers_apart(spec: str, better: str, worse: str) -> None:
    wanted, prompt = property_named(spec), [{"role": "user", "content": "the blue sky"}]
    assert wanted(prompt, better) > wanted(prompt, worse)


def test_a_property_may_be_a_function_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def vowels(prompt, answer):\n    return sum(c in 'aeiou' for c in answer)\n", "utf-8")
    assert property_named(f"{path}:vowels")([], "aloe") == 3


@pytest.mark.parametrize(
    ("spec", "reason"), [("shortre", "did you mean 'shorter'"), ("regex:(", "not a regular")]
)
def test_a_property_that_there_is_not_is_named(spec: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        property_named(spec)


def test_answers_that_do_not_differ_leave_nothing_written(tmp_path: Path) -> None:
    data = write(tmp_path / "r.jsonl")
    config = checked_pairs.Config(data=(data,), out=tmp_path / "out", model=tmp_path, prefer="regex:xyz")
    with pytest.raises(DataError, match="no two answers to a prompt differ in 'regex:xyz'"):
        checked_pairs.run(config, lambda _: Fake())  # pyright: ignore[reportArgumentType] - all that is asked of it
    assert not (tmp_path / "out").exists()
