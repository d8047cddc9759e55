"""Steps of a solution: each is judged at its own last token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from luban.alignment.process_rows import read_steps, to_solution
from luban.data.batch import IGNORED
from luban.errors import DataError
from tests import tiny

ASKED = [{"role": "user", "content": "2 + 2 x 3?"}]


def solution(**changes: Any) -> dict[str, Any]:
    return {"prompt": ASKED, "steps": ["2 x 3 = 6", "6 + 2 = 9"], "labels": [True, False]} | changes


def test_each_step_is_judged_where_its_line_ends() -> None:
    tokenizer = tiny.tokenizer()
    ids, targets = to_solution(solution(), tokenizer, where="f:1", room=99)
    ends = np.flatnonzero(targets != IGNORED)
    assert targets[ends].tolist() == [1, 0]
    assert tokenizer.decode(ids[: ends[0] + 1].tolist()).endswith("2 x 3 = 6\n")
    assert tokenizer.decode(ids[ends[0] + 1 : ends[1] + 1].tolist()) == "6 + 2 = 9\n"


def test_the_prompt_is_what_a_policy_would_be_asked() -> None:
    tokenizer = tiny.tokenizer()
    asked, _ = tokenizer.render(ASKED, add_generation_prompt=True)
    ids, _ = to_solution(solution(), tokenizer, where="f:1", room=99)
    assert ids[: len(asked)].tolist() == asked


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"labels": [True]}, "2 steps need as many labels"),
        ({"labels": [True, "perhaps"]}, "a label is 'perhaps'"),
        ({"steps": []}, "'steps' is a list of texts"),
        ({"steps": ["a", " "]}, "'steps' is a list of texts, none of them empty"),
        ({"prompt": None}, "a row of judged steps has other keys"),
        ({"steps": ["a " * 99, "b"]}, r"prompt and steps have \d+ tokens, and there is room for 99"),
    ],
)
def test_a_wrong_row_is_named(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in (solution(), solution(**changes))), encoding="utf-8")
    with pytest.raises(DataError, match=rf"r\.jsonl:2: {reason}"):
        read_steps([path], tiny.tokenizer(), room=99)
    steps, tally = read_steps([path], tiny.tokenizer(), room=99, on_bad_row="reject")
    assert (len(steps), len(tally.rejected)) == (1, 1)
