"""Tools over HTTP: calls that are asked for keep to their schemas, and what a model writes is read as calls."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import openai
import pytest

from tests.serving.running import Running

QUESTION: list[Any] = [{"role": "user", "content": "weather?"}]
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["n"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "f", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "g", "description": "Do.", "parameters": SCHEMA}},
]
BROKEN = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{"}}


def ask(server: Running, **more: Any) -> Any:
    known: dict[str, Any] = {"messages": QUESTION, "tools": TOOLS[:1], "temperature": 1, "seed": 1}
    return server.client().chat.completions.create(model="tiny", **(known | more))


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "f"}}])
def test_a_call_that_is_asked_for_comes_and_keeps_to_its_schema(roomy: Running, choice: Any) -> None:
    for seed in range(2):
        (told,) = ask(roomy, tool_choice=choice, seed=seed, parallel_tool_calls=False).choices
        assert told.finish_reason == "tool_calls"
        assert told.message.content is None
        (call,) = told.message.tool_calls
        assert (call.type, call.function.name) == ("function", "f")
        jsonschema.validate(json.loads(call.function.arguments), SCHEMA)


def test_a_named_tool_is_the_one_that_is_called(roomy: Running) -> None:
    choice = {"type": "function", "function": {"name": "g"}}
    for seed in range(2):
        told = ask(roomy, tools=TOOLS, tool_choice=choice, seed=seed, parallel_tool_calls=False).choices[0]
        assert [call.function.name for call in told.message.tool_calls] == ["g"]


def test_a_streamed_call_is_the_same_call(roomy: Running) -> None:
    more: Any = {"tool_choice": "required", "parallel_tool_calls": False, "n": 2}
    whole = ask(roomy, **more)
    calls: list[list[Any]] = [[], []]
    reasons = ["", ""]
    for chunk in ask(roomy, stream=True, **more):
        (choice,) = chunk.choices
        calls[choice.index] += choice.delta.tool_calls or []
        reasons[choice.index] = choice.finish_reason
    assert [[call.function.arguments for call in row] for row in calls] == [
        [call.function.arguments for call in choice.message.tool_calls] for choice in whole.choices
    ]
    assert [call.index for row in calls for call in row] == [0, 0]
    assert reasons == ["tool_calls", "tool_calls"]


def test_where_a_call_is_left_to_the_model_words_stay_words(roomy: Running) -> None:
    plain = ask(roomy, max_tokens=8).choices[0]
    assert plain.message.tool_calls is None
    assert plain.finish_reason == "length"
    assert len(plain.message.content) > 0


def test_where_nothing_may_be_called_the_model_sees_no_tools(roomy: Running) -> None:
    without = ask(roomy, tools=[], max_tokens=8)
    forbidden = ask(roomy, tool_choice="none", max_tokens=8)
    assert forbidden.usage == without.usage
    assert forbidden.choices == without.choices
    assert ask(roomy, max_tokens=8).usage.prompt_tokens > without.usage.prompt_tokens


def test_a_conversation_with_calls_and_their_results_goes_on(roomy: Running) -> None:
    called = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"n": 3}'}}
    talk = [
        *QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "c", "content": "sunny"},
    ]
    answer = ask(roomy, messages=talk, max_tokens=4)
    template = roomy.served.lm.tokenizer
    calls = [{"function": {"name": "f", "arguments": {"n": 3}}}]
    shown = [
        *QUESTION,
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "content": "sunny"},
    ]
    expected = template.render(shown, tools=TOOLS[:1], add_generation_prompt=True)[0]
    assert answer.usage.prompt_tokens == len(expected)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "h"}}}, None),
        ({"response_format": {"type": "json_object"}}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [BROKEN]}]},
            "messages.0.tool_calls",
        ),
    ],
)
def test_tools_that_contradict_the_rest_are_refused(
    roomy: Running, change: dict[str, Any], param: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(roomy, **change)
    assert caught.value.param == param
