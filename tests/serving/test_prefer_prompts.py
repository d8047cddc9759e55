"""Prompts out of the files that people have: rows of prompts, whole conversations, lines of text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luban.errors import DataError
from luban.serving.prefer_prompts import read_prompts

ASKED = {"role": "user", "content": "Why?"}
SAID = {"role": "assistant", "content": "Because."}
SYSTEM = {"role": "system", "content": "Be brief."}


def read(path: Path, *values: Any) -> list[list[Any]]:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return [prompt.messages for prompt in read_prompts(path, lambda _: None)]


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"prompt": "Why?"}, [ASKED]),
        ({"prompt": [SYSTEM, ASKED]}, [SYSTEM, ASKED]),
        ({"prompt": [ASKED], "chosen": [SAID], "rejected": "No."}, [ASKED]),
        ({"prompt": "Why?", "completion": "Because."}, [ASKED]),
        ({"messages": [SYSTEM, ASKED, SAID]}, [SYSTEM, ASKED]),
        ([ASKED, SAID, ASKED], [ASKED, SAID, ASKED]),
        ({"instruction": "Why?", "output": "Because."}, [ASKED]),
        ({"text": "Why?"}, [ASKED]),
    ],
)
def test_the_prompt_of_a_row_is_all_before_its_last_answer(
    row: Any, messages: list[Any], tmp_path: Path
) -> None:
    assert read(tmp_path / "rows.jsonl", row) == [messages]


def test_a_text_file_holds_a_prompt_a_line(tmp_path: Path) -> None:
    (tmp_path / "asked.txt").write_text("Why?\n\nHow?\n", encoding="utf-8")
    found = read_prompts(tmp_path / "asked.txt", lambda _: None)
    assert [prompt.messages[0].get("content") for prompt in found] == ["Why?", "How?"]


def test_a_prompt_that_stands_twice_is_asked_once_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read(tmp_path / "rows.jsonl", {"prompt": "Why?"}, {"prompt": [ASKED]}, {"prompt": "How?"}) == [
        [ASKED],
        [{"role": "user", "content": "How?"}],
    ]
    assert "1 of 3 rows repeat another's prompt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "Why?"}, "unknown row format"),
        ({"prompt": 3}, "neither a text nor a list"),
        ({"prompt": " "}, "does not end with something that the user said"),
        ({"prompt": [ASKED, SAID]}, "does not end with something that the user said"),
        ({"messages": [SAID]}, "does not end with something that the user said"),
        ({"prompt": [{"content": "Why?"}]}, "message 1 needs 'role'"),
    ],
)
def test_a_row_without_prompt_is_named(row: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"rows\.jsonl:2: .*{message}"):
        read(tmp_path / "rows.jsonl", {"prompt": "Why?"}, row)


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows in this file"):
        read(tmp_path / "rows.jsonl")
