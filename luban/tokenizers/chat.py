"""Chat templates: a conversation to text, and which of the text the assistant wrote.

Templates are Jinja programs of strangers, so they run in a sandbox, with what `transformers` offers them. The
house's own template (`CHATML`) has `{% generation %}` blocks around the assistant's part; for templates without
them the part is found as a difference, see `answers_by_difference`.
"""

from __future__ import annotations

import datetime
import functools
import importlib.resources
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from luban.errors import TokenizerError
from luban.tokenizers.specials import Marks, Specials

CHATML = (importlib.resources.files("luban.tokenizers") / "templates" / "chatml.jinja").read_text(
    encoding="utf-8"
)

Messages = Sequence[Mapping[str, Any]]
Pieces = list[tuple[str, bool]]
"""Rendered text in order, cut where the assistant begins and ends; True for what it wrote."""

# What a template that meets an unexpected message can raise; it is a program, and not ours.
TEMPLATE_FAULTS = (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError)


class ChatTemplate:
    """One compiled template. `marks_answers`: whether it has `{% generation %}` blocks."""

    def __init__(self, source: str, *, where: str, variables: Mapping[str, Any]) -> None:
        self.where, self._variables = where, variables
        environment = _environment()
        try:
            self.marks_answers = any(environment.parse(source).find_all(nodes.ExtensionAttribute))
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise TokenizerError(f"line {error.lineno}: {error.message}", where=where) from error

    def text(
        self,
        messages: Messages,
        marks: Marks,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
    ) -> str:
        """The conversation as text, generation blocks between `marks.opens` and `marks.closes`.

        Raises TokenizerError naming the template and the first message it fails on.
        """
        render = functools.partial(
            self._template.render,
            tools=tools,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            luban_marks=marks,
            **self._variables,
        )
        try:
            return render(messages=messages)
        except TEMPLATE_FAULTS as error:
            place = _first_failing(render, messages)
            raise TokenizerError(f"fails {place}: {error}", where=self.where) from error

    def pieces(self, text: str, marks: Marks) -> Pieces:
        """`text` cut at its generation blocks."""
        parts = re.split(f"[{marks.opens}{marks.closes}]", text)
        return [(part, number % 2 == 1) for number, part in enumerate(parts)]


def answers_by_difference(
    template: ChatTemplate,
    specials: Specials,
    messages: Messages,
    marks: Marks,
    *,
    tools: Sequence[Mapping[str, Any]] | None,
    add_generation_prompt: bool,
) -> Pieces:
    """Pieces of a conversation whose template has no generation blocks.

    Answer i is what the first i messages have beyond the generation prompt of those before it, up to the last
    special token the template writes there (spaces after it are nobody's words). This is exact only if each
    of these texts begins the next; raises TokenizerError if one does not, or no special token ends the answer.
    """
    text = functools.partial(template.text, marks=marks, tools=tools)
    whole = text(messages, add_generation_prompt=add_generation_prompt)
    pieces, done = Pieces(), 0
    for number, message in enumerate(messages):
        if message.get("role") != "assistant":
            continue
        prompt = text(messages[:number], add_generation_prompt=True)
        answered = text(messages[: number + 1])
        if not (answered.startswith(prompt) and whole.startswith(answered) and len(prompt) >= done):
            _refuse(template, number, "the template writes earlier turns differently once later ones follow")
        answer = answered[len(prompt) :]
        ends = [end for _, end in specials.spans(answer, marks.disarmed)]
        if not ends or answer[ends[-1] :].strip():
            _refuse(template, number, "no special token ends it, so a model could never learn to stop")
        end = len(prompt) + ends[-1]
        pieces += [(whole[done : len(prompt)], False), (whole[len(prompt) : end], True)]
        done = end
    return [*pieces, (whole[done:], False)]


def _refuse(template: ChatTemplate, number: int, reason: str) -> NoReturn:
    raise TokenizerError(
        f"has no generation blocks, and the answer in message {number + 1} cannot be told apart: {reason}",
        where=template.where,
        hint="put {% generation %} ... {% endgeneration %} around the assistant's words and end token",
    )


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}`: puts the render's marks around what it encloses."""

    tags = {"generation"}  # noqa: RUF012 - jinja declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_mark", [nodes.ContextReference()])
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _mark(self, context: Mapping[str, Any], caller: Any) -> str:
        marks: Marks = context["luban_marks"]
        return f"{marks.opens}{caller()}{marks.closes}"


@functools.cache
def _environment() -> ImmutableSandboxedEnvironment:
    """The sandbox, with the names and filters that `transformers` gives to templates."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().astimezone().strftime(form)
    return environment


def _to_json(value: Any, ensure_ascii: bool = False, **layout: Any) -> str:
    # Jinja's own filter escapes HTML and sorts keys, which no chat template means.
    return json.dumps(value, ensure_ascii=ensure_ascii, **layout)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _first_failing(render: Any, messages: Messages) -> str:
    for number in range(1, len(messages) + 1):
        try:
            render(messages=messages[:number])
        except TEMPLATE_FAULTS:
            return f"on message {number} (role '{messages[number - 1].get('role')}')"
    return "on these messages"
