"""Answers of a given form: whatever the model would say, what comes has it."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import openai
import pydantic
import pytest

from tests.serving.running import Running

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "old": {"type": "boolean"}},
    "required": ["name", "old"],
    "additionalProperties": False,
}


def say(server: Running, seed: int = 0, **form: Any) -> str:
    body = {"messages": [{"role": "user", "content": "who?"}], "seed": seed, "max_tokens": 120, **form}
    answer = server.post("/v1/chat/completions", body)
    assert answer.status_code == 200, answer.text
    choice = answer.json()["choices"][0]
    assert choice["finish_reason"] == "stop"
    return choice["message"]["content"]


@pytest.mark.parametrize(
    "form",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}},
        {"guided_json": SCHEMA},
        {"guided_json": json.dumps(SCHEMA)},
    ],
)
def test_an_answer_keeps_to_its_schema(roomy: Running, form: dict[str, Any]) -> None:
    for seed in range(2):
        jsonschema.validate(json.loads(say(roomy, seed, **form)), SCHEMA)


def test_an_answer_matches_its_expression(roomy: Running) -> None:
    for seed in range(3):
        assert re.fullmatch(r"[a-c]{2}-\d{3}", say(roomy, seed, guided_regex=r"[a-c]{2}-\d{3}"))


def test_an_answer_is_one_of_its_choices(roomy: Running) -> None:
    assert {say(roomy, seed, guided_choice=["yes", "no", "是"]) for seed in range(12)} <= {"yes", "no", "是"}


def test_an_answer_keeps_to_its_grammar(roomy: Running) -> None:
    assert re.fullmatch("a+b", say(roomy, guided_grammar='start: "a"+ "b"'))


def test_completions_take_forms_too_and_stream_them(roomy: Running) -> None:
    pieces = roomy.client().completions.create(
        model="tiny", prompt=["a", "b"], max_tokens=20, stream=True, extra_body={"guided_regex": "[01]{4}"}
    )
    texts = ["", ""]
    for chunk in pieces:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert all(re.fullmatch("[01]{4}", text) for text in texts)


def test_the_official_client_parses_an_answer_into_its_own_type(roomy: Running) -> None:
    class Count(pydantic.BaseModel):
        many: bool

    answer = roomy.client().chat.completions.parse(
        model="tiny", messages=[{"role": "user", "content": "?"}], response_format=Count, seed=1
    )
    assert isinstance(answer.choices[0].message.parsed, Count)


@pytest.mark.parametrize(
    "form", [{"guided_regex": "("}, {"guided_grammar": "nonsense ::"}, {"guided_json": {"type": "nothing"}}]
)
def test_a_form_that_is_none_is_refused(roomy: Running, form: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError):
        roomy.client().completions.create(model="tiny", prompt="a", extra_body=form)
