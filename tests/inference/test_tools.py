"""Calls read from text cut anywhere, in each family's format; and answers that must call."""

from __future__ import annotations

import itertools
import json
from typing import Any

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.errors import PromptError
from luban.inference.generate import generate_tokens
from luban.inference.tool_choice import must_call
from luban.inference.tools import PARSERS, Call, Said, format_of, parse, parser_of
from luban.lm import Sampling
from tests import tiny

PARIS = Call("weather", '{"city": "Paris"}')
TIME = Call("time", "{}")
ANSWERS: list[tuple[str, str, str, list[Call]]] = [
    ("hermes", "Just words.", "Just words.", []),
    ("hermes", " spaced \n", " spaced \n", []),
    (
        "hermes",
        'I look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>',
        "I look.",
        [PARIS],
    ),
    (
        "hermes",
        '<tool_call>{"name": "weather", "arguments": "{\\"city\\": \\"Paris\\"}"}</tool_call>\n'
        '<tool_call>\n{"name": "time"}\n</tool_call>',
        "",
        [PARIS, TIME],
    ),
    ("hermes", '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}', "", [PARIS]),
    ("hermes", "<tool_call>{nonsense</tool_call> and on", "<tool_call>{nonsense</tool_call> and on", []),
    ("hermes", 'a <tool_call>{"name": "ti', 'a <tool_call>{"name": "ti', []),
    ("hermes", "1 < 2 <tool", "1 < 2 <tool", []),
    ("mistral", "Just words.", "Just words.", []),
    ("mistral", '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Paris"}}, {"name": "time"}]',
     "", [PARIS, TIME]),
    ("mistral", '[TOOL_CALLS]weather[ARGS]{"city": "Paris"}[TOOL_CALLS]time[ARGS]{}', "", [PARIS, TIME]),
    ("mistral", 'Well [TOOL_CALLS]weather{"city": "Paris"}', "Well", [PARIS]),
    ("mistral", "[TOOL_CALLS] none", "[TOOL_CALLS] none", []),
    ("llama3", "Just words {}.", "Just words {}.", []),
    ("llama3", '{"name": "weather", "parameters": {"city": "Paris"}}', "", [PARIS]),
    ("llama3", '<|python_tag|>{"name": "weather", "parameters": {"city": "Paris"}}; {"name": "time"}',
     "", [PARIS, TIME]),
    ("llama3", '{"answer": 42}', '{"answer": 42}', []),
    ("llama3", "<|python_tag|>print(1)", "<|python_tag|>print(1)", []),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "content", "calls"), ANSWERS)
def test_an_answer_has_its_content_and_its_calls(
    name: str, text: str, content: str, calls: list[Call]
) -> None:
    assert parse(text, name) == (content, calls)


@settings(max_examples=25, deadline=None)
@given(answer=st.sampled_from(ANSWERS), cuts=st.lists(st.integers(0, 120), max_size=8))
def test_where_the_text_is_cut_changes_nothing(
    answer: tuple[str, str, str, list[Call]], cuts: list[int]
) -> None:
    name, text, content, calls = answer
    parser, said = parser_of(name), list[Said]()
    borders = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    for start, end in itertools.pairwise(borders):
        said += parser.push(text[start:end])
    said += parser.finish()
    assert "".join(part for part in said if isinstance(part, str)) == content
    assert [part for part in said if isinstance(part, Call)] == calls
    assert "" not in said


def test_words_are_told_at_once_and_a_call_when_it_is_closed() -> None:
    parser = parser_of("hermes")
    assert parser.push("Hello") == ["Hello"]
    assert parser.push(" <tool_c") == []
    assert parser.push('all>{"name": "time", "arguments": {}}</tool_call') == []
    assert parser.push(">") == [TIME]
    assert parser.push("\nDone") == ["Done"]


@pytest.mark.parametrize(
    ("template", "name"),
    [
        (
            "{% for t in tools %}<tools>{{ t }}</tools>{% endfor %}<tool_call>\n{{ call }}\n</tool_call>",
            "hermes",
        ),
        ("[AVAILABLE_TOOLS]{{ tools }}[/AVAILABLE_TOOLS][TOOL_CALLS]", "mistral"),
        ('{{ "<|python_tag|>" }}{{ tools }}', "llama3"),
        ('Environment: ipython {{ tools }} {"name": n, "parameters": d}', "llama3"),
        ("<tool_call><function={{ name }}></function></tool_call>", None),
        (tiny.VENDOR_CHATML, None),
        (None, None),
    ],
)
def test_the_format_is_read_off_the_template(template: str | None, name: str | None) -> None:
    assert format_of(template) == name


TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "$defs": {"unit": {"enum": ["C", "F"]}},
                "type": "object",
                "properties": {"city": {"type": "string", "maxLength": 6}, "unit": {"$ref": "#/$defs/unit"}},
                "required": ["city", "unit"],
                "additionalProperties": False,
            },
        },
    },
    {
        "type": "function",
        "function": {"name": 'ti"me', "parameters": {"type": "object", "additionalProperties": False}},
    },
]


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(5)
    return tiny.llama(context=512).eval()


def called(model: Any, format_name: str, seed: int, **choice: Any) -> list[Call]:
    """The calls of an answer to noise that must call."""
    # The tiny vocabulary lends two of its special tokens as marks.
    specials = {"[TOOL_CALLS]": 1} if format_name == "mistral" else {}
    form = must_call(TOOLS, format_name, special_tokens=specials, **choice)
    (made,) = generate_tokens(
        model,
        [[5, 6]],
        [Sampling(temperature=1, seed=seed, max_tokens=480)],
        tokenizer=tiny.tokenizer(),
        stop_ids=frozenset({0, 2}),
        constraint=form,
    )
    assert made.finish_reason == "stop"
    if specials:
        assert made.tokens[0] == 1
    content, calls = parse(("[TOOL_CALLS]" if specials else "") + made.text, format_name)
    assert not content
    return calls


@pytest.mark.parametrize("name", PARSERS)
def test_who_must_call_calls_a_tool_with_arguments_of_its_schema(model: Any, name: str) -> None:
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}
    for seed in range(2):
        calls = called(model, name, seed)
        assert calls
        for call in calls:
            jsonschema.validate(json.loads(call.arguments), schemas[call.name])


@pytest.mark.parametrize("name", PARSERS)
def test_who_must_call_one_tool_once_does(model: Any, name: str) -> None:
    for seed in range(2):
        (call,) = called(model, name, seed, name="weather", several=False)
        assert call.name == "weather"


@pytest.mark.parametrize(
    ("tools", "choice", "message"),
    [
        (TOOLS, {"name": "wether"}, "no tool is called 'wether'; did you mean 'weather'"),
        ([], {}, "there is no tool"),
        (
            [{"function": {"name": "a", "parameters": {"type": "array"}}}],
            {},
            "tools.a.parameters: .* type object",
        ),
        ([{"function": {"name": "a", "parameters": {"properites": {}}}}], {}, "unknown keyword 'properites'"),
    ],
)
def test_a_call_that_cannot_be_asked_for_is_refused_by_name(tools: Any, choice: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        must_call(tools, "hermes", special_tokens={}, **choice)


def test_an_unknown_format_is_refused_by_name() -> None:
    with pytest.raises(PromptError, match="unknown format of tool calls 'herme'; did you mean 'hermes'"):
        parser_of("herme")
