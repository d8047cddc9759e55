"""Preferences as documents of two answers: their tokens, the room they need, the split by prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from luban.alignment.preferences import Limits, Pairs, read_pairs
from luban.errors import DataError, TrainingError
from tests import tiny

ROOM = Limits(row=128, window=64)


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def pair(prompt: str, chosen: str, rejected: str) -> dict[str, Any]:
    return {"prompt": [{"role": "user", "content": prompt}], "chosen": chosen, "rejected": rejected}


def judged(prompt: str, answer: str, good: bool) -> dict[str, Any]:
    return {"prompt": prompt, "completion": answer, "label": good}


def read(path: Path, limits: Limits = ROOM, **settings: Any) -> Pairs:
    return read_pairs([path], tiny.tokenizer(), limits, **settings)[0]


def test_only_the_answers_are_learnt_and_each_ends_with_its_end_token(tmp_path: Path) -> None:
    tokenizer = tiny.tokenizer()
    (found,) = read(write(tmp_path / "r.jsonl", pair("sky?", "blue", "green, of course"))).all
    for answer, text in ((found.first, "blue"), (found.second, "green, of course")):
        learnt = answer.ids[answer.mask].tolist()
        assert tokenizer.decode(learnt) == text
        assert learnt[-1] in tokenizer.stop_ids
        assert answer.mask[-1]
    prompt = found.first.prompt_tokens
    assert found.second.ids[:prompt].tolist() == found.first.ids[:prompt].tolist()


def test_a_document_is_both_answers_and_its_border(tmp_path: Path) -> None:
    pairs = read(write(tmp_path / "r.jsonl", pair("sky?", "blue", "green")))
    ids, mask = pairs[0]
    (border,) = pairs.borders
    assert ids[border:].tolist() == pairs.all[0].second.ids.tolist()
    assert not mask[0]
    assert not mask[border]


def test_a_plain_answer_without_prompt_has_no_target_before_its_second_token(tmp_path: Path) -> None:
    pairs = read(write(tmp_path / "r.jsonl", {"prompt": "", "chosen": "yes, so", "rejected": "no, so"}))
    assert not pairs[0][1][pairs.borders[0]]


@pytest.mark.parametrize(
    ("row", "limits", "reason"),
    [
        (pair("why? " * 30, "a", "b"), ROOM, r"the prompt has \d+ tokens, and there is room for 64"),
        (pair("why?", "a " * 60, "b"), ROOM, r"prompt and answer have \d+ tokens, and the model's window 64"),
        (pair("why?", "a " * 20, "b"), Limits(row=54, window=64), r"both answers.* and a row 54\n.*loop.max_length="),
    ],
)  # fmt: skip
def test_a_pair_without_room_is_named(tmp_path: Path, row: Any, limits: Limits, reason: str) -> None:
    path = write(tmp_path / "r.jsonl", pair("sky?", "blue", "green"), row)
    with pytest.raises(DataError, match=rf"r\.jsonl:2: {reason}"):
        read(path, limits)


def test_bad_rows_can_be_left_out_and_are_kept_with_their_reason(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", pair("a", "b", "b"), pair("sky?", "blue", "green"), {"prompt": "p"})
    pairs, tally = read_pairs([path], tiny.tokenizer(), ROOM, on_bad_row="reject")
    assert (len(pairs), tally.rows, tally.kept) == (1, 3, 1)
    assert [str(rejected).partition(": ")[2] for rejected in tally.rejected] == [
        "chosen and rejected are the same",
        "unknown preference format with keys: prompt",
    ]


def test_a_file_of_bad_rows_only_leaves_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", pair("a", "b", "b"))
    with pytest.raises(DataError, match=r"none of 1 rows can be used; the first: .*are the same"):
        read(path, on_bad_row="reject")


def test_a_judged_answer_is_no_pair(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", {"prompt": "p", "completion": "c", "label": True})
    with pytest.raises(DataError, match=r"r\.jsonl:1: this row judges one answer.*\n.*kto"):
        read(path)


def test_judged_answers_stand_beside_the_next_rows_answer_to_their_prompt(tmp_path: Path) -> None:
    rows = [judged("a?", " no", True), judged("b?", " yes", False)]
    pairs = read(write(tmp_path / "r.jsonl", *rows), judged=True)
    told = [
        tuple(tiny.tokenizer().decode(a.ids.tolist()) for a in (pair.first, pair.second))
        for pair in pairs.all
    ]
    assert told == [("a? no", "a? yes"), ("b? yes", "b? no")]
    assert pairs.good.tolist() == [True, False]


def test_a_pair_is_a_good_and_a_bad_answer_where_answers_are_judged(tmp_path: Path) -> None:
    pairs = read(write(tmp_path / "r.jsonl", pair("sky?", "blue", "green")), judged=True)
    assert pairs.good.tolist() == [True, False]


def test_a_stranger_is_cut_to_the_room_there_is(tmp_path: Path) -> None:
    rows = [judged("a b c d e?", " no", True), judged("b?", " yes" * 6, True)]
    pairs = read(write(tmp_path / "r.jsonl", *rows), Limits(row=50, window=24), judged=True)
    assert len(pairs.all[0].second.ids) == 24
    assert all(len(pairs[number][0]) <= 50 for number in range(2))


def test_pairs_of_one_prompt_are_held_out_together(tmp_path: Path) -> None:
    rows = [pair(f"question {n}?", "yes", f"no {k}") for n in range(10) for k in range(3)]
    pairs = read(write(tmp_path / "r.jsonl", *rows))
    learnt, held_out = pairs.split(0.3, seed=1)
    prompts = [{pairs._prompt(i) for i in range(len(pairs))} for pairs in (learnt, held_out)]
    assert (len(learnt), len(held_out)) == (21, 9)
    assert not prompts[0] & prompts[1]
    again = pairs.split(0.3, seed=1)[1]
    assert all(np.array_equal(held_out[i][0], again[i][0]) for i in range(9))


def test_holding_out_every_prompt_is_an_error(tmp_path: Path) -> None:
    pairs = read(write(tmp_path / "r.jsonl", pair("sky?", "blue", "green")))
    with pytest.raises(TrainingError, match="leaves none to learn from"):
        pairs.split(0.9, seed=0)
