"""Logs, exports and threads become turns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luban.data.sources.dialogue import Turn, irc_turn, longest_chain
from tests.data.sources.planted import read, reasons, write


@pytest.mark.parametrize(
    ("line", "turn"),
    [("[12:34] <lu> hello: <b>", Turn("lu", "hello: <b>")), ("12:34:56 <@lu> hi", Turn("lu", "hi")),
     ("<ban> hi", Turn("ban", "hi")), ("2024-05-06 07:08:09 <lu> hi", Turn("lu", "hi")),
     ("2024-05-06 07:08:09\tlu\thi", Turn("lu", "hi")), ("2024-05-06 07:08:09\t-->\tlu has joined", None),
     ("[12:34] * lu waves", Turn("*", "lu waves")), ("[12:34] *** lu has joined #saw", None),
     ("* lu has quit (bye)", None), ("=== lu is now known as ban", None), ("", None)],
)  # fmt: skip
def test_a_line_of_a_log_is_a_turn_or_a_notice(line: str, turn: Turn | None) -> None:
    assert irc_turn(line) == turn


def test_a_log_is_one_document(tmp_path: Path) -> None:
    log = "[1:00] *** lu joined\n[1:01] <lu> a saw?\n[1:02] <ban> yes\n[1:03] * lu nods\n"
    found, _ = read(write(tmp_path / "a.log", log), format="irc")
    assert found[0].text == "lu: a saw?\nban: yes\n* lu nods"
    assert found[0].meta == {"turns": 3, "speakers": 2}
    assert reasons(read(write(tmp_path / "b.log", "nothing\nhere"), format="irc")[1]) == ["no_text"]


SLACK = [{"user": "U1", "user_profile": {"real_name": "Lu Ban"}, "text": "a saw?", "ts": "1.0"},
         {"user": "U2", "text": "yes"}, {"type": "message", "subtype": "joined"}]  # fmt: skip
DISCORD = {"guild": {"name": "g"}, "channel": {"name": "c"}, "messages": [
    {"author": {"name": "lu"}, "content": "a saw?", "timestamp": "2024"}, {"author": {"name": "ban"}, "content": ""},
    {"author": {"name": "ban"}, "content": "yes"}]}  # fmt: skip
TELEGRAM = {"name": "group", "type": "private", "messages": [
    {"from": "lu", "text": ["a ", {"type": "bold", "text": "saw"}, "?"]}, {"from": "ban", "text": "yes"}]}  # fmt: skip
FORUM = {"title": "Saws", "author": "lu", "selftext": "a saw?", "comments": [
    {"author": "x", "body": "no"},
    {"author": "ban", "body": "yes", "replies": [{"author": "lu", "body": "thanks"}]}]}  # fmt: skip


@pytest.mark.parametrize(
    ("export", "text"),
    [(SLACK, "Lu Ban: a saw?\nU2: yes"), (DISCORD, "lu: a saw?\nban: yes"), (TELEGRAM, "lu: a saw?\nban: yes"),
     (FORUM, "lu: a saw?\nban: yes\nlu: thanks")],
)  # fmt: skip
def test_exports_of_each_kind_become_turns(tmp_path: Path, export: Any, text: str) -> None:
    found, rejected = read(write(tmp_path / "a.json", json.dumps(export)), format="chat")
    assert [d.text for d in found] == [text]
    found, _ = read(write(tmp_path / "b.jsonl", json.dumps(export) + "\n\nnonsense"), format="chat")
    assert [d.text for d in found] == [text]
    assert not rejected


def test_of_a_tree_the_longest_chain_is_kept_and_of_equals_the_first() -> None:
    leaf = {"author": "a", "text": "leaf"}
    answers = [{"author": "b", "text": "one"}, {"author": "c", "text": "two", "children": [leaf]},
               {"author": "d", "text": "three", "children": [leaf]}]  # fmt: skip
    tree = [{"author": "r", "text": "root", "children": answers}]
    assert [turn.text for turn in longest_chain(tree)] == ["root", "two", "leaf"]
