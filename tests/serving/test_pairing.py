"""Which prompt is asked next, who stands where, and what becomes of pairs: with models that say what they are told."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from luban.errors import DataError, PromptError
from luban.lm import Conversation, Sampling
from luban.serving.pairing import Pair, Pairing
from luban.serving.votes import PREFERENCES, UNDECIDED, ConflictError, Vote
from tests.serving.prefer_page import QUESTIONS, BrokenLM, ScriptedLM, pairing_of, rows

Open = Callable[..., Pairing]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Opens a pairing over one folder; all of them are closed at the end."""
    with contextlib.ExitStack() as stack:

        def pairing(*models: ScriptedLM, **settings: object) -> Pairing:
            made = pairing_of(tmp_path, *models, **settings)  # pyright: ignore[reportArgumentType] - settings of it
            stack.callback(made.close)
            return made

        yield pairing


def written(pairing: Pairing) -> Pair:
    """The current pair when its answers are done."""
    for _ in range(400):
        pair = pairing.current()
        assert pair
        if pair.done and not pair.fault:
            return pair
        time.sleep(0.01)
    raise AssertionError("the answers are never done")


def settle(pairing: Pairing, verdict: str = "a") -> Pair:
    strength = 2 if verdict in ("a", "b") else None
    return pairing.vote(Vote(pair=written(pairing).id, verdict=verdict, strength=strength))  # pyright: ignore[reportArgumentType] - one of the verdicts


def questions(pairing: Pairing, count: int) -> list[str]:
    return [settle(pairing).prompt.messages[-1].get("content", "") for _ in range(count)]


def test_each_prompt_is_asked_once_in_the_files_order(opened: Open) -> None:
    pairing = opened()
    assert questions(pairing, 3) == list(QUESTIONS)
    assert pairing.current() is None
    assert (pairing.asked, pairing.total) == (3, 3)


def test_a_later_session_goes_on_where_the_last_one_stopped(opened: Open) -> None:
    first = opened()
    settle(first, "skip")
    settle(first)
    first.close()
    later = opened()
    assert (later.asked, later.total) == (2, 3)
    assert questions(later, 1) == [QUESTIONS[2]]
    assert later.current() is None


def test_prompts_are_asked_again_if_told_so_and_answered_anew(opened: Open, tmp_path: Path) -> None:
    assert questions(opened(), 3) == questions(opened(again=True), 3) == list(QUESTIONS)
    seeds = [tuple(row["seeds"]) for row in rows(tmp_path / PREFERENCES)]
    assert len(set(seeds)) == 6


def test_two_models_stand_on_either_side_by_chance_and_one_model_on_both(opened: Open) -> None:
    many = [f"Question {number}?" for number in range(40)]
    pairing = opened(questions=many)
    left = [settle(pairing, "skip").a.model for _ in many]
    assert 10 <= left.count("oak") <= 30
    alone = opened(ScriptedLM("ash"), questions=["Another one?"])
    pair = written(alone)
    assert pair.a.model == pair.b.model == "ash"
    assert pair.a.seed != pair.b.seed


def test_the_same_seed_draws_the_same_sides_and_answers(opened: Open) -> None:
    def drawn(seed: int) -> list[str]:
        pairing = opened(seed=seed)
        pair = written(pairing)
        pairing.close()
        return [pair.a.text, pair.b.text]

    assert drawn(3) == drawn(3) != drawn(4)


def test_the_answers_grow_by_turns_so_that_speed_tells_nothing(opened: Open) -> None:
    turns: list[str] = []

    class Counted(ScriptedLM):
        def stream(self, conversation: Conversation, sampling: Sampling) -> Generator[str, None, str]:
            for piece in super().stream(conversation, sampling):
                turns.append(self.name)
                yield piece
            return "stop"

    pair = written(opened(Counted("slow", pause_s=0.01), Counted("fast"), questions=["One?"]))
    assert turns == [pair.a.model, pair.b.model] * 6
    assert {pair.a.model, pair.b.model} == {"slow", "fast"}


def test_one_pair_is_written_ahead_while_the_first_is_read(opened: Open) -> None:
    oak = ScriptedLM("oak")
    pairing = opened(oak, ScriptedLM("elm"))
    written(pairing)
    while not all(pair.done for pair in pairing.open):
        time.sleep(0.01)
    assert [pair.prompt.messages[-1].get("content") for pair in pairing.open] == list(QUESTIONS[:2])
    assert len(oak.asked) == 2


def test_a_typed_prompt_is_asked_before_the_file_goes_on(opened: Open, tmp_path: Path) -> None:
    pairing = opened(ScriptedLM("oak", pause_s=0.02), ScriptedLM("elm"))
    assert pairing.current()
    pairing.ask("  Why?  ")
    assert questions(pairing, 2) == ["Why?", QUESTIONS[0]]
    assert pairing.asked == 1
    assert rows(tmp_path / PREFERENCES)[0]["prompt"] == [{"role": "user", "content": "Why?"}]


def test_a_prompt_that_nobody_can_answer_is_refused(opened: Open) -> None:
    pairing = opened(questions=())
    assert pairing.current() is None
    with pytest.raises(DataError, match="field 'prompt': the prompt is empty"):
        pairing.ask(" \n")
    with pytest.raises(PromptError, match="54 tokens and the window of oak 40"):
        pairing.ask("word " * 50)
    with pytest.raises(DataError, match=r"prompts\.jsonl:2: the prompt has"):
        opened(questions=["fine?", "word " * 50])


def test_a_pair_is_voted_on_once(opened: Open, tmp_path: Path) -> None:
    pairing = opened()
    pair = settle(pairing)
    with pytest.raises(ConflictError, match="a vote on this pair already"):
        pairing.vote(Vote(pair=pair.id, verdict="b", strength=1))
    with pytest.raises(ConflictError, match="no pair 'nowhere'"):
        pairing.vote(Vote(pair="nowhere", verdict="skip"))
    assert len(rows(tmp_path / PREFERENCES)) == 1


def test_answers_are_not_voted_on_before_they_are_written(opened: Open) -> None:
    pairing = opened(ScriptedLM("oak", pause_s=0.05), ScriptedLM("elm"))
    pair = pairing.current()
    assert pair
    with pytest.raises(ConflictError, match="still being written"):
        pairing.vote(Vote(pair=pair.id, verdict="skip"))


def test_undo_takes_the_row_back_and_shows_the_same_pair_again(opened: Open, tmp_path: Path) -> None:
    pairing = opened()
    with pytest.raises(ConflictError, match="no vote of this session"):
        pairing.undo()
    pair = settle(pairing, "b")
    settle(pairing, "same")
    assert pairing.undo() is not pair
    assert pairing.undo() is pair is pairing.current()
    assert not rows(tmp_path / PREFERENCES) + rows(tmp_path / UNDECIDED)
    assert questions(pairing, 3) == list(QUESTIONS)
    chosen = [row["chosen_stood"] for row in rows(tmp_path / PREFERENCES)]
    assert chosen == ["a", "a", "a"]


@pytest.mark.parametrize(("says", "fault"), [("the same", "identical"), (" ", "empty")])
def test_a_pair_that_cannot_be_judged_is_set_aside_and_kept(
    says: str, fault: str, opened: Open, tmp_path: Path
) -> None:
    pairing = opened(ScriptedLM("oak", says=says), ScriptedLM("elm", says=says), questions=["One?"])
    while pairing.current():
        time.sleep(0.01)
    assert [row["verdict"] for row in rows(tmp_path / UNDECIDED)] == [fault]
    assert (pairing.set_aside, pairing.asked) == (1, 1)
    assert "came out" in pairing.aside
    assert not pairing.undoable


def test_undo_reaches_over_pairs_that_were_set_aside(opened: Open, tmp_path: Path) -> None:
    class Half(ScriptedLM):
        def stream(self, conversation: Conversation, sampling: Sampling) -> Generator[str, None, str]:
            same = conversation[-1].get("content") == QUESTIONS[1]
            return ScriptedLM(self.name, says="the same" if same else "").stream(conversation, sampling)

    pairing = opened(Half("oak"), Half("elm"))
    first = settle(pairing, "skip")
    assert written(pairing).prompt.messages[-1].get("content") == QUESTIONS[2]
    assert [row["verdict"] for row in rows(tmp_path / UNDECIDED)] == ["skip", "identical"]
    assert pairing.undo() is first
    assert not rows(tmp_path / UNDECIDED)
    settle(pairing, "a")
    assert written(pairing).prompt.messages[-1].get("content") == QUESTIONS[2]


def test_what_the_writing_thread_dies_of_is_raised(opened: Open) -> None:
    pairing = opened(BrokenLM("oak"), BrokenLM("elm"))
    with pytest.raises(ZeroDivisionError):
        written(pairing)


def test_an_answer_that_was_cut_off_says_so_in_its_row(opened: Open, tmp_path: Path) -> None:
    settle(opened(ScriptedLM("oak", ends="length"), ScriptedLM("elm")))
    (row,) = rows(tmp_path / PREFERENCES)
    assert dict(zip(row["models"], row["finish_reasons"], strict=True)) == {"oak": "length", "elm": "stop"}
