"""Chatting: the session's memory and its window, the commands, pipes, one-shot answers, Ctrl-C."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from luban.config import load
from luban.errors import ConfigError, PromptError
from luban.inference.chat import COMMANDS, Config, Terminal, run, show
from luban.inference.session import Session
from luban.lm import Conversation, Sampling
from tests.inference.echo import EchoLM


def session(**settings: object) -> Session:
    return Session(EchoLM(), Sampling(seed=10, max_tokens=8), **settings)  # type: ignore[arg-type] - system only


def say(session: Session, *texts: str) -> list[str]:
    return ["".join(session.ask(text)) for text in texts]


def piped(
    lines: str, monkeypatch: pytest.MonkeyPatch, lm: EchoLM | None = None, *words: str
) -> dict[str, object]:
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    config = load(Config, ["--model", "echo", "--seed", "10", *words], where="luban chat")
    return run(config, lambda _: lm or EchoLM())


def test_the_model_sees_all_earlier_turns() -> None:
    talk = session(system="Be kind.")
    say(talk, "one", "two")
    roles = [message.get("role") for message in talk.visible()]
    assert roles == ["system", "user", "assistant", "user", "assistant"]


def test_a_full_window_hides_whole_oldest_turns_and_keeps_the_system_message() -> None:
    talk = session(system="a b c")
    say(talk, "1 2 3 4 5 6", "1 2 3 4 5 6", "1 2 3 4 5 6")
    assert talk.hidden == 2
    visible = talk.visible()
    assert [message.get("role") for message in visible[:2]] == ["system", "user"]
    assert len(talk.messages) == 6


def test_a_question_that_alone_is_too_long_is_refused_and_forgotten() -> None:
    talk = session()
    with pytest.raises(PromptError):
        say(talk, "word " * 50)
    assert talk.messages == []
    assert say(talk, "short") == ["short"]


def test_an_answer_that_is_interrupted_is_kept_as_far_as_it_came() -> None:
    talk = session()
    pieces = talk.ask("one two three")
    next(pieces)
    pieces.close()  # type: ignore[attr-defined] - a generator
    assert talk.messages[-1].get("content") == "one"


def test_a_retry_asks_the_same_with_another_seed() -> None:
    talk = session()
    say(talk, "one")
    assert "".join(talk.retry()) == "one"
    assert isinstance(talk.lm, EchoLM)
    assert talk.lm.seeds == [10, 11]
    assert len(talk.messages) == 2


def test_undo_forgets_the_last_turn_only() -> None:
    talk = session()
    say(talk, "one", "two")
    assert talk.undo() == "two"
    assert [message.get("content") for message in talk.messages] == ["one", "one"]


def test_undo_and_retry_need_a_question() -> None:
    with pytest.raises(PromptError, match="no question"):
        session().undo()
    with pytest.raises(PromptError, match="no question"):
        session().retry()


@pytest.mark.parametrize(
    ("assignment", "problem"),
    [("temperatur=1", "temperature"), ("top_p=2", "top_p"), ("hot", "cannot read"), ("top_k=[", "top_k")],
)
def test_a_wrong_setting_is_refused_and_changes_nothing(assignment: str, problem: str) -> None:
    talk = session()
    with pytest.raises(ConfigError, match=problem):
        talk.set(assignment)
    assert talk.sampling == Sampling(seed=10, max_tokens=8)


def test_a_setting_holds_from_then_on() -> None:
    talk = session()
    talk.set("temperature=0.25")
    assert talk.sampling.temperature == 0.25


def test_a_piped_chat_answers_line_by_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = piped("Hello there\n\n[bold]you\n", monkeypatch)
    assert capsys.readouterr().out == "Hello there\n[bold]you\n"
    assert len(results["messages"]) == 4  # type: ignore[arg-type] - a list


def test_commands_work_through_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    saved = tmp_path / "talk.jsonl"
    lines = ["one", "two", "/undo", "/system Be kind.", "/set temperature=0.1", "/retry", f"/save {saved}"]
    piped("\n".join([*lines, "/clear", "/help", "/exit", "never"]), monkeypatch)
    captured = capsys.readouterr()
    assert captured.out == "one\ntwo\none\n"
    assert all(f"/{name}" in captured.err for name in COMMANDS)
    contents = [message["content"] for message in json.loads(saved.read_text(encoding="utf-8"))["messages"]]
    assert contents == ["Be kind.", "one", "one"]


def test_saving_does_not_write_over_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    saved = tmp_path / "talk.jsonl"
    saved.write_text("precious", encoding="utf-8")
    with pytest.raises(ConfigError, match="exists"):
        piped(f"one\n/save {saved}\n", monkeypatch)
    assert saved.read_text(encoding="utf-8") == "precious"


def test_an_unknown_command_is_answered_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="did you mean 'retry'"):
        piped("/rety\n", monkeypatch)


def test_a_full_window_is_told_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    piped("1 2 3 4 5 6\n" * 4, monkeypatch, None, "--max-tokens", "8")
    assert "window is full" in capsys.readouterr().err


def test_prompts_are_answered_each_in_its_own_conversation(capsys: pytest.CaptureFixture[str]) -> None:
    lm = EchoLM()
    words = ["--model", "echo", "--system", "Be kind.", "--prompt", "one", "two"]
    results = run(load(Config, words, where="luban chat"), lambda _: lm)
    assert capsys.readouterr().out == ""
    show(results)
    assert capsys.readouterr().out == "one\ntwo\n"
    assert [len(conversation) for conversation in lm.asked] == [2, 2]


def test_ctrl_c_ends_the_answer_and_keeps_the_session(capsys: pytest.CaptureFixture[str]) -> None:
    class Interrupted(EchoLM):
        def stream(self, conversation: Conversation, sampling: Sampling) -> Iterator[str]:
            yield next(super().stream(conversation, sampling))
            raise KeyboardInterrupt

    talk = Session(Interrupted(), Sampling())
    Terminal(talk).answer(talk.ask("Tell me"))
    assert [message.get("content") for message in talk.messages] == ["Tell me", "Tell"]
    assert "stopped" in capsys.readouterr().err


def test_a_model_that_cannot_chat_is_told_before_the_first_question(monkeypatch: pytest.MonkeyPatch) -> None:
    class Base(EchoLM):
        def count(self, conversation: Conversation) -> int:
            raise PromptError(f"no chat template for {len(conversation)} messages")

    with pytest.raises(PromptError, match="no chat template"):
        piped("", monkeypatch, Base())
