"""The page's calls over a real socket, and what they refuse."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from luban.alignment.preference_rows import Preference, to_preferences
from luban.errors import PromptError
from luban.lm import Conversation, Sampling
from luban.serving.votes import PREFERENCES, UNDECIDED
from tests.serving.prefer_page import QUESTIONS, BrokenLM, ScriptedLM, pairing_of, rows, served


def test_a_vote_is_kept_as_a_row_that_reads_as_a_preference(tmp_path: Path) -> None:
    with served(pairing_of(tmp_path)) as page:
        status, told = page.vote("b", 3)
    assert status == 200
    (row,) = rows(tmp_path / PREFERENCES)
    (preference,) = to_preferences(row, where="row")
    assert isinstance(preference, Preference)
    assert preference.margin == 1
    assert preference.chosen.messages[-1]["content"] == row["chosen"][0]["content"]
    assert told["kept"]["file"] == PREFERENCES
    assert told["kept"]["b"] == row["models"][0]
    assert told["asked"] == told["preferences"] == 1
    assert told["pair"]["prompt"] == [{"role": "user", "content": QUESTIONS[1]}]


def test_whose_answers_they_are_is_hidden_until_the_vote(tmp_path: Path) -> None:
    oak, elm = ScriptedLM("oak", says="one"), ScriptedLM("elm", says="two")
    with served(pairing_of(tmp_path, oak, elm)) as page:
        page.pair()
        before = json.dumps(page.state())
        _, after = page.vote("same")
    assert "oak" not in before
    assert "seed" not in before
    assert {after["kept"]["a"], after["kept"]["b"]} == {"oak", "elm"}


def test_answers_are_shown_as_they_grow(tmp_path: Path) -> None:
    with served(pairing_of(tmp_path, ScriptedLM("oak", pause_s=0.1))) as page:
        lengths = []
        while not (pair := page.state()["pair"])["done"]:
            lengths.append(len(pair["a"]["text"]))
        assert len(set(lengths)) > 2
        assert lengths == sorted(lengths)


def test_undo_and_typed_prompts_go_through_the_same_door(tmp_path: Path) -> None:
    with served(pairing_of(tmp_path)) as page:
        page.vote("skip")
        status, told = page.call("DELETE", "/api/votes/last")
        assert (status, told["undecided"], told["undoable"]) == (200, 0, False)
        assert page.call("DELETE", "/api/votes/last")[0] == 409
        status, told = page.call("POST", "/api/prompts", {"prompt": "Why?"})
        assert (status, told["pair"]["prompt"][0]["content"]) == (200, "Why?")
    assert not rows(tmp_path / UNDECIDED)


def test_voting_twice_on_a_pair_is_a_conflict(tmp_path: Path) -> None:
    with served(pairing_of(tmp_path)) as page:
        pair = page.pair()["id"]
        vote = {"pair": pair, "verdict": "a", "strength": 1}
        assert page.call("POST", "/api/votes", vote)[0] == 200
        status, told = page.call("POST", "/api/votes", vote)
    assert status == 409
    assert "a vote on this pair already" in told["error"]["message"]
    assert len(rows(tmp_path / PREFERENCES)) == 1


def test_mistakes_are_answered_with_400_and_what_is_wrong(tmp_path: Path) -> None:
    with served(pairing_of(tmp_path)) as page:
        for path, body, message in (
            ("/api/votes", {"pair": "x", "verdict": "c"}, "field 'verdict': "),
            ("/api/votes", {"pair": "x", "verdict": "a", "strength": 9}, "field 'strength': "),
            ("/api/votes", b"{", "body: "),
            ("/api/votes", b"\xff\xfe", "body: "),
            ("/api/prompts", {"prompt": 3}, "field 'prompt': "),
            ("/api/prompts", {"prompt": ""}, "field 'prompt': "),
            ("/api/prompts", b"\xff", "body: "),
            ("/api/prompts", {"prompt": "word " * 60}, "no room for an answer"),
        ):
            status, told = page.call("POST", path, body)
            assert (status, message in told["error"]["message"]) == (400, True), told
    assert not (tmp_path / PREFERENCES).exists()


def test_no_other_site_can_vote(tmp_path: Path) -> None:
    with served(pairing_of(tmp_path)) as page:
        vote = {"pair": page.pair()["id"], "verdict": "skip"}
        as_a_form_sends_it = page.call("POST", "/api/votes", vote, Content_Type="text/plain")
        under_another_name = page.call("GET", "/api/state", Host="evil.example")
    assert as_a_form_sends_it[0] == 415
    assert under_another_name[0] == 400
    assert not (tmp_path / UNDECIDED).exists()


def test_the_page_comes_whole_out_of_the_package(tmp_path: Path) -> None:
    with served(pairing_of(tmp_path)) as page:
        for path in ("/", "/prefer.css", "/prefer.js"):
            status, content = page.call("GET", path)
            assert status == 200
            assert "http://" not in content
            assert "https://" not in content
        assert page.call("GET", "/../votes.py")[0] == 404
        assert page.call("GET", "/api/votes")[0] == 405


def test_a_disk_that_cannot_be_written_is_told_and_the_vote_stays_open(tmp_path: Path) -> None:
    pairing = pairing_of(tmp_path)
    (tmp_path / UNDECIDED).mkdir()
    with served(pairing) as page:
        status, told = page.vote("skip")
        assert (status, "not kept" in told["error"]["message"]) == (500, True)
        assert page.vote("a", 1)[0] == 200


def test_a_dead_model_is_a_500_and_not_an_endless_wait(tmp_path: Path) -> None:
    with served(pairing_of(tmp_path, BrokenLM("oak"))) as page:
        while (status := page.call("GET", "/api/state")[0]) == 200:
            time.sleep(0.01)
    assert status == 500


def test_many_votes_at_once_leave_one_row_for_each_pair(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with served(pairing_of(tmp_path)) as page:
        vote = {"pair": page.pair()["id"], "verdict": "a", "strength": 1}
        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(lambda _: page.call("POST", "/api/votes", vote)[0], range(24)))
    assert sorted(statuses) == [200] + [409] * 23
    assert len(rows(tmp_path / PREFERENCES)) == 1


@pytest.mark.parametrize("path", ["/", "/api/state"])
def test_nothing_may_be_framed_or_cached(path: str, tmp_path: Path) -> None:
    with (
        served(pairing_of(tmp_path)) as page,
        socket.create_connection(("127.0.0.1", int(page.url[-5:]))) as line,
    ):
        line.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        head = line.makefile("rb").read().partition(b"\r\n\r\n")[0].lower()
    assert b"frame-ancestors 'none'" in head
    assert b"cache-control: no-store" in head


def test_what_a_model_refuses_is_told_and_takes_no_prompt(tmp_path: Path) -> None:
    class Refusing(ScriptedLM):
        def stream(self, conversation: Conversation, sampling: Sampling) -> Generator[str, None, str]:
            raise PromptError(f"cannot write {len(conversation)} texts of {sampling.max_tokens}")

    with served(pairing_of(tmp_path, Refusing("oak"))) as page:
        while (told := page.call("GET", "/api/state"))[0] == 200:
            time.sleep(0.01)
    assert told == (400, {"error": {"message": "cannot write 1 texts of 32"}})
    assert not (tmp_path / UNDECIDED).exists()
