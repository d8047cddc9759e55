"""Votes become rows by hand, and rows come into their files whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from luban.errors import DataError
from luban.serving.votes import (
    PREFERENCES,
    UNDECIDED,
    Answer,
    ConflictError,
    Ledger,
    prompt_key,
    read_vote,
    row_of,
)
from tests.serving.prefer_page import rows

PROMPT = [{"role": "user", "content": "鲁班?"}]
OAK = Answer(model="oak", seed=1, text="yes", finish_reason="stop")
ELM = Answer(model="elm", seed=2, text="no", finish_reason="length")


def voted(verdict: str, strength: int | None, mode: str = "helpful") -> dict:
    body = {"pair": "x", "verdict": verdict} | ({"strength": strength} if strength else {})
    vote = read_vote(str(body).replace("'", '"').encode())
    return row_of(vote, PROMPT, OAK, ELM, mode)  # pyright: ignore[reportArgumentType] - a mode


@pytest.mark.parametrize(
    ("mode", "verdict", "chosen"),
    [("helpful", "a", "yes"), ("helpful", "b", "no"), ("harmless", "a", "no"), ("harmless", "b", "yes")],
)
def test_the_more_helpful_answer_is_chosen_and_the_more_harmful_one_rejected(
    mode: str, verdict: str, chosen: str
) -> None:
    row = voted(verdict, 1, mode)
    assert row["chosen"] == [{"role": "assistant", "content": chosen}]
    assert {row[side][0]["content"] for side in ("chosen", "rejected")} == {"yes", "no"}
    assert row["chosen_stood"] == ("a" if chosen == "yes" else "b")
    assert row["models"] == (["oak", "elm"] if chosen == "yes" else ["elm", "oak"])


@pytest.mark.parametrize(("strength", "margin"), [(1, 0.3333), (2, 0.6667), (3, 1.0)])
def test_the_margin_is_the_strengths_share_of_the_greatest(strength: int, margin: float) -> None:
    row = voted("b", strength)
    assert (row["strength"], row["margin"]) == (strength, margin)


def test_how_the_answers_came_about_stands_in_the_chosen_ones_order() -> None:
    row = voted("b", 2)
    told = {name: row[name] for name in ("prompt", "models", "seeds", "finish_reasons", "mode")}
    assert told == {
        "prompt": PROMPT,
        "models": ["elm", "oak"],
        "seeds": [2, 1],
        "finish_reasons": ["length", "stop"],
        "mode": "helpful",
    }


@pytest.mark.parametrize("verdict", ["same", "both_bad", "skip"])
def test_a_pair_without_preference_keeps_both_answers_under_keys_that_no_stage_learns_from(
    verdict: str,
) -> None:
    row = voted(verdict, None)
    assert (row["verdict"], row["a"][0]["content"], row["b"][0]["content"]) == (verdict, "yes", "no")
    assert not {"chosen", "answers", "completion", "margin"} & set(row)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("nonsense", "body"),
        ("[1]", "body"),
        ('{"verdict": "a", "strength": 1}', "field 'pair'"),
        ('{"pair": "x", "strength": 1}', "field 'verdict'"),
        ('{"pair": "x", "verdict": "left", "strength": 1}', "field 'verdict'"),
        ('{"pair": "x", "verdict": "a", "strength": 4}', "field 'strength'"),
        ('{"pair": "x", "verdict": "a", "strength": true}', "field 'strength'"),
        ('{"pair": "x", "verdict": "a", "strength": "2"}', "field 'strength'"),
        ('{"pair": "x", "verdict": "a"}', "field 'strength'"),
        ('{"pair": "x", "verdict": "skip", "strength": 1}', "field 'strength'"),
        ('{"pair": "x", "verdict": "a", "strength": 1, "chosen": "b"}', "field 'chosen'"),
        ('{"pair": 3, "verdict": "skip"}', "field 'pair'"),
    ],
)
def test_a_malformed_vote_is_refused_by_the_field_that_is_wrong(body: str, field: str) -> None:
    with pytest.raises(DataError) as refused:
        read_vote(body.encode())
    assert str(refused.value).startswith(f"{field}: ")


def test_rows_go_to_their_files_and_are_known_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for row in (voted("a", 1), voted("skip", None), voted("b", 3)):
        ledger.add(row)
    again = Ledger(tmp_path)
    assert again.counts == ledger.counts == {PREFERENCES: 2, UNDECIDED: 1}
    assert again.asked == ledger.asked == {prompt_key(PROMPT): 3}
    assert "鲁班" in (tmp_path / PREFERENCES).read_text("utf-8")


def test_undoing_every_row_leaves_the_bytes_of_each_step_before(tmp_path: Path) -> None:
    def content() -> list[bytes]:
        files = (tmp_path / PREFERENCES, tmp_path / UNDECIDED)
        return [file.read_bytes() if file.exists() else b"" for file in files]

    ledger, before = Ledger(tmp_path), []
    for row in (voted("a", 1), voted("skip", None), voted("same", None), voted("b", 3)):
        before.append(content())
        ledger.add(row)
    while before:
        ledger.undo()
        assert content() == before.pop()
    assert ledger.counts == {PREFERENCES: 0, UNDECIDED: 0}
    assert not +ledger.asked


def test_a_row_is_not_undone_where_someone_else_has_written_behind_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.add(voted("a", 1))
    with (tmp_path / PREFERENCES).open("a", encoding="utf-8") as file:
        file.write('{"prompt": []}\n')
    with pytest.raises(ConflictError, match="changed by someone else"):
        ledger.undo()
    assert len(rows(tmp_path / PREFERENCES)) == 2


def test_a_torn_last_line_is_cut_off_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = Ledger(tmp_path)
    ledger.add(voted("a", 1))
    whole = (tmp_path / PREFERENCES).read_bytes()
    (tmp_path / PREFERENCES).write_bytes(whole + whole[: len(whole) // 2])
    assert Ledger(tmp_path).counts[PREFERENCES] == 1
    assert (tmp_path / PREFERENCES).read_bytes() == whole
    assert "never finished" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["no json", "[1]", '{"prompt": "text"}', "\\xff"])
def test_a_row_that_is_none_is_named(line: str, tmp_path: Path) -> None:
    Ledger(tmp_path).add(voted("a", 1))
    with (tmp_path / PREFERENCES).open("ab") as file:
        file.write(line.encode().replace(b"\\xff", b"\xff") + b"\n")
    with pytest.raises(DataError, match=rf"{PREFERENCES}:2: "):
        Ledger(tmp_path)


def test_a_full_disk_keeps_nothing_of_the_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path)
    ledger.add(voted("a", 1))
    before = (tmp_path / PREFERENCES).read_bytes()

    def full(_file: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        ledger.add(voted("b", 1))
    assert (tmp_path / PREFERENCES).read_bytes() == before
    assert ledger.counts[PREFERENCES] == 1
