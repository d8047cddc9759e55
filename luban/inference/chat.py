"""Stage `chat`: talk to a model in the terminal, through a pipe, or in one shot with `--prompt`.

    /help  /exit  /clear  /system TEXT  /set NAME=VALUE  /retry  /undo  /save FILE

Ctrl-C stops an answer and keeps the session; Ctrl-D leaves.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

from annotated_types import Ge

from luban.device import DeviceConfig
from luban.errors import ConfigError, LubanError, nearest
from luban.folder import write_text
from luban.inference.complete import sampling_of
from luban.inference.session import ChatLM, Session
from luban.lm import Message, OpenLM, Sampling


@dataclass(frozen=True, kw_only=True)
class Config(Sampling, DeviceConfig):
    """Talk to a model out of a folder in Hugging Face layout, through its own chat template.

    Reads questions from the terminal, or one a line from standard input. Type /help for the commands.
    """

    model: str
    """Model folder."""
    system: str | None = None
    """The system message; without one the template's own default holds."""
    prompt: tuple[str, ...] = ()
    """Answer these, each in its own conversation, and leave."""
    max_tokens: Annotated[int, Ge(1)] = 512
    """Stop an answer after this many new tokens."""


class Leave(Exception):  # noqa: N818 - nothing went wrong
    """Somebody typed /exit."""


def run(config: Config, open_lm: OpenLM) -> dict[str, Any]:
    """Answers to `--prompt`, or else a session that prints as it goes; returns what was said.

    Raises PromptError if the model has no chat template.
    """
    lm = cast(ChatLM, open_lm(config.model))
    sampling = sampling_of(config)
    if config.prompt:
        return _one_shot(lm, config, sampling)
    session = Session(lm, sampling, system=config.system)
    lm.count([{"role": "user", "content": "?"}])  # a model that cannot chat is told before the first question
    Terminal(session).talk()
    return {"model": lm.name, "seed": sampling.seed, **session.row()}


def show(results: dict[str, Any]) -> None:
    """Print the answers to `--prompt`, several each under its question; a session has already printed everything."""
    answers = results.get("answers", [])
    for row in answers:
        if len(answers) > 1:
            print(f"> {row['prompt']}", file=sys.stderr, flush=True)
        print(row["answer"], flush=True)


class Terminal:
    """Reads questions and commands, writes answers; notices go to stderr, colours only to a terminal."""

    def __init__(self, session: Session) -> None:
        from rich.console import Console

        self.session = session
        self.interactive = sys.stdin.isatty()
        self.out = Console(highlight=False, soft_wrap=True)
        self.notes = Console(stderr=True, highlight=False, soft_wrap=True, style="dim")

    def talk(self) -> None:
        """Go on until /exit or the end of the input. Outside a terminal a mistake ends the session."""
        self._greet()
        for line in self._lines():
            try:
                self._take(line)
            except Leave:
                return
            except LubanError as error:
                if not self.interactive:
                    raise
                self.note(str(error))

    def note(self, text: str) -> None:
        """A line on stderr."""
        self.notes.print(text, markup=False)

    def _greet(self) -> None:
        lm = self.session.lm
        if not self.interactive:
            return
        import readline  # noqa: F401 - importing it gives `input` line editing and a history

        self.note(f"{lm.name}, window {lm.context} tokens. /help for commands, Ctrl-D to leave.")
        suggested = getattr(lm, "suggested", {})
        if suggested:
            values = " ".join(f"{name}={value}" for name, value in suggested.items())
            self.note(f"its authors suggest {values}; /set changes one")

    def _lines(self) -> Iterator[str]:
        """Lines that are not empty; Ctrl-C at the prompt only empties the line."""
        while True:
            try:
                line = input("> ") if self.interactive else sys.stdin.readline()
            except EOFError:
                self.out.print()
                return
            except KeyboardInterrupt:
                self.note("\nCtrl-D or /exit leaves")
                continue
            if not line and not self.interactive:
                return
            if line.strip():
                yield line.strip()

    def _take(self, line: str) -> None:
        if not line.startswith("/"):
            self.answer(self.session.ask(line))
            return
        name, _, rest = line[1:].partition(" ")
        if name not in COMMANDS:
            raise ConfigError(f"unknown command '/{name}'; {nearest(name, COMMANDS)}")
        COMMANDS[name].act(self, rest.strip())

    def answer(self, pieces: Iterator[str]) -> None:
        """Write an answer as it comes; Ctrl-C ends it and keeps what there is."""
        hidden = self.session.hidden
        with contextlib.closing(cast(Any, pieces)):
            try:
                for piece in pieces:
                    self.out.out(piece, end="", style="cyan" if self.interactive else None)
                    self.out.file.flush()
            except KeyboardInterrupt:
                self.note("\n(stopped)")
        self.out.print()
        if self.session.hidden > hidden:
            turns = self.session.hidden // 2
            self.note(f"(the window is full: the model no longer sees the first {turns} turns)")


@dataclass(frozen=True)
class Command:
    """What a `/word` does with the words after it, and how /help tells it."""

    words: str
    purpose: str
    act: Callable[[Terminal, str], None]


def _help(terminal: Terminal, _: str) -> None:
    for name, command in COMMANDS.items():
        terminal.note(f"{f'/{name} {command.words}':<18}{command.purpose}")


def _leave(_: Terminal, __: str) -> None:
    raise Leave


def _clear(terminal: Terminal, _: str) -> None:
    terminal.session.clear()
    terminal.note("(all turns forgotten)")


def _system(terminal: Terminal, text: str) -> None:
    terminal.session.system = text or None
    terminal.note("(system message set)" if text else "(system message removed)")


def _set(terminal: Terminal, assignment: str) -> None:
    terminal.session.set(assignment)
    terminal.note(f"({assignment})")


def _retry(terminal: Terminal, _: str) -> None:
    terminal.answer(terminal.session.retry())


def _undo(terminal: Terminal, _: str) -> None:
    terminal.note(f"(forgot: {terminal.session.undo()})")


def _save(terminal: Terminal, name: str) -> None:
    if not name:
        raise ConfigError("no file named", where="/save", hint="/save talk.jsonl")
    if Path(name).exists():
        raise ConfigError("the file exists already", where=name, hint="/save under another name")
    write_text(Path(name), json.dumps(terminal.session.row(), ensure_ascii=False) + "\n")
    terminal.note(f"(saved {name}, a row that luban sft reads)")


COMMANDS = {
    "help": Command("", "these lines", _help),
    "exit": Command("", "leave (also Ctrl-D)", _leave),
    "clear": Command("", "forget all turns", _clear),
    "system": Command("TEXT", "set the system message; without TEXT remove it", _system),
    "set": Command("NAME=VALUE", "change sampling: temperature, top_p, max_tokens, ...", _set),
    "retry": Command("", "answer the last question anew", _retry),
    "undo": Command("", "forget the last question and its answer", _undo),
    "save": Command("FILE", "write the conversation as a JSON line", _save),
}


def _one_shot(lm: ChatLM, config: Config, sampling: Sampling) -> dict[str, Any]:
    system: list[Message] = [{"role": "system", "content": config.system}] if config.system else []
    conversations = [[*system, Message(role="user", content=prompt)] for prompt in config.prompt]
    answers = [
        {
            "prompt": prompt,
            "answer": made.text,
            "finish_reason": made.finish_reason,
            "tokens": len(made.tokens),
        }
        for prompt, made in zip(config.prompt, lm.chat(conversations, sampling), strict=True)
    ]
    return {"model": lm.name, "seed": sampling.seed, "answers": answers}
