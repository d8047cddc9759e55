"""Ways to put a labelled task into words: template files, ours or the user's, run in Jinja's sandbox.

A file says which `fields` a row must have, what its `labels` are called, and several ways to ask and answer:

    about: what the task is
    fields: [text, label]
    labels: {"0": negative, "1": positive}      # optional: the words for what stands in the rows
    direct:                                     # ask, and answer at once
      - {ask: "Is this praise or blame? {{ text }}", answer: "{{ label }}"}
    chain_of_thought:                           # optional: ask for the reasons first; needs a field for them
      - {ask: "...", answer: "{{ rationale }} So it is {{ label }}."}
    shot: "Q: {{ ask }}\\nA: {{ answer }}"        # optional: how a worked example is written

Besides its fields a template knows `choices` (all labels, or the row's own) and the filters `lettered` (one choice
per line behind A., B., ...) and `letter_in` (the letter of an answer among the choices).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml
from jinja2.sandbox import ImmutableSandboxedEnvironment

from luban.errors import ConfigError, DataError, nearest

FOLDER = Path(__file__).with_name("task_templates")
MANNERS = ("direct", "chain_of_thought")
KEYS = ("about", "fields", "labels", *MANNERS, "shot")
SHOT = "Q: {{ ask }}\nA: {{ answer }}"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

# What a template that meets an unexpected row can raise; it is a program, and not ours.
FAULTS = (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError)


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to ask, and to answer."""

    ask: jinja2.Template
    answer: jinja2.Template
    where: str

    def render(self, fields: Mapping[str, Any], where: str) -> tuple[str, str]:
        """The question and the answer for a row; raises DataError naming the row if it lacks something."""
        try:
            asked, answered = self.ask.render(fields).strip(), self.answer.render(fields).strip()
            f"{asked}{answered}".encode()  # half of a surrogate pair cannot be written down
        except FAULTS as error:
            raise DataError(f"{self.where} fails: {error}", where=where) from None
        if not asked or not answered:
            raise DataError(
                f"{self.where} gives an empty {'question' if not asked else 'answer'}", where=where
            )
        return asked, answered


@dataclass(frozen=True, kw_only=True)
class TaskTemplate:
    """A template file, checked and compiled."""

    name: str
    fields: tuple[str, ...]
    labels: Mapping[str, str]
    """The word for each label as rows have it; empty if any is taken as it is."""
    ways: Mapping[str, Sequence[Way]]
    """By manner: `direct`, `chain_of_thought`."""
    shot: jinja2.Template

    def word(self, label: Any, where: str) -> str:
        """What a row's label is called; raises DataError for one outside of the set."""
        text = str(label)
        if not self.labels:
            return text
        if text not in self.labels and text not in self.labels.values():
            raise DataError(
                f"the label '{text}' is outside of the set; {nearest(text, self.labels)}", where=where
            )
        return self.labels.get(text, text)

    def with_shots(self, shots: Sequence[tuple[str, str]], asked: str) -> str:
        """The question behind worked examples, all written alike, the last one without its answer."""
        pairs = [*shots, (asked, "")]
        return "\n\n".join(self.shot.render(ask=ask, answer=answer).rstrip() for ask, answer in pairs)


def shipped() -> list[str]:
    """The names of our own template files."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def open_templates(name: str, labels: Mapping[str, str] | None = None) -> TaskTemplate:
    """The templates of a shipped name or of a YAML file; `labels` replace the file's own.

    Raises ConfigError for an unknown name, and for a file that is malformed or does not compile.
    """
    path = FOLDER / f"{name}.yaml" if name in shipped() else Path(name)
    if not path.is_file():
        hint = "a shipped name, or your own .yaml file"
        raise ConfigError(
            f"no templates '{name}'; {nearest(name, shipped())}", where="setting 'templates'", hint=hint
        )
    content = _read(path)
    ways = {manner: _ways(content.get(manner) or [], manner, path) for manner in MANNERS}
    if not any(ways.values()):
        raise ConfigError(f"there is no way to ask in it: give {' or '.join(MANNERS)}", where=path)
    return TaskTemplate(
        name=path.stem,
        fields=tuple(content.get("fields") or ()),
        labels=dict(labels or {str(key): str(word) for key, word in (content.get("labels") or {}).items()}),
        ways={manner: found for manner, found in ways.items() if found},
        shot=_compiled(content.get("shot", SHOT), path, "shot"),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"not readable as YAML: {error}", where=path) from None
    if not isinstance(content, dict):
        raise ConfigError("a template file holds `name: value` lines", where=path)
    for key in content:
        if key not in KEYS:
            raise ConfigError(f"unknown entry '{key}'; {nearest(str(key), KEYS)}", where=path)
    return content


def _ways(entries: Any, manner: str, path: Path) -> list[Way]:
    ways = []
    for number, entry in enumerate(entries if isinstance(entries, list) else [None], 1):
        where = f"{manner} {number}"
        if not isinstance(entry, dict) or set(entry) != {"ask", "answer"}:
            raise ConfigError(f"{where} needs 'ask' and 'answer' and nothing else", where=path)
        ask, answer = (_compiled(entry[part], path, f"{where}, {part}") for part in ("ask", "answer"))
        ways.append(Way(ask=ask, answer=answer, where=f"template '{path.stem}' {where}"))
    return ways


def _compiled(source: Any, path: Path, part: str) -> jinja2.Template:
    try:
        return _environment().from_string(str(source))
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(f"{part}: line {error.lineno}: {error.message}", where=path) from None


@functools.cache
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["lettered"] = _lettered
    environment.filters["letter_in"] = _letter_in
    return environment


def _lettered(choices: Sequence[Any]) -> str:
    return "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))


def _letter_in(answer: Any, choices: Sequence[Any]) -> str:
    return LETTERS[[*map(str, choices)].index(str(answer))]
