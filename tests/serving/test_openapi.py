"""The page of the API: whole, true, and no request that it allows, or nearly allows, breaks the server."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings, strategies
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from luban.serving.openapi import document
from tests.serving.running import Running, running

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
]
ANSWERED = {
    "/v1/completions": {"prompt": "a", "max_tokens": 2, "logprobs": 1},
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": "a"}],
        "max_tokens": 2,
        "logprobs": True,
    },
    "/v1/embeddings": {"input": "a"},
    "/v1/score": {"pairs": [["a", "b"]]},
}


def resolved(api: dict[str, Any], path: str, method: str, status: int) -> dict[str, Any]:
    """The schema of an answer, with all that it refers to."""
    content = api["paths"][path][method]["responses"][str(status)]["content"]
    return {**content["application/json"]["schema"], "components": api["components"]}


def test_answers_are_what_the_page_says(server: Running) -> None:
    api = server.get("/openapi.json").json()
    for path, body in ANSWERED.items():
        answer = server.post(path, body).json()
        jsonschema.validate(answer, resolved(api, path, "post", 200))
        refused = server.post(path, {**body, "nonsense": 1}).json()
        jsonschema.validate(refused, resolved(api, path, "post", 400))
    for path in ("/v1/models", "/health"):
        jsonschema.validate(server.get(path).json(), resolved(api, path, "get", 200))


def test_the_page_for_people_names_each_path_and_field(server: Running) -> None:
    page = server.get("/docs").text
    for words in (*ANSWERED, "top_logprobs", "encoding_format", "guided_regex"):
        assert words in page
    assert "http:" not in page
    assert "<script" not in page


def test_the_page_says_whether_a_key_is_needed() -> None:
    assert document(keys=True)["security"] == [{"key": []}]
    assert "security" not in document(keys=False)


@pytest.mark.slow
@pytest.mark.parametrize("path", [*ANSWERED, "/v1/models", "/health", "/metrics"])
def test_no_request_made_from_the_page_breaks_the_server(path: str) -> None:
    """Requests that keep to the schema, and such that break it; answers keep to the page, and none is a 5xx."""
    with running(limits={"timeout_s": 20}) as server:
        api = schemathesis.openapi.from_dict(server.get("/openapi.json").json())
        operation = api[path]["POST" if path in ANSWERED else "GET"]
        modes = list(GenerationMode) if path in ANSWERED else [GenerationMode.POSITIVE]
        cases = strategies.one_of([operation.as_strategy(mode) for mode in modes])
        session = requests.Session()
        session.trust_env = False

        @settings(
            max_examples=40 if path in ANSWERED else 5,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=[
                HealthCheck.too_slow,
                HealthCheck.filter_too_much,
                HealthCheck.data_too_large,
            ],
        )
        @given(case=cases)
        def try_it(case: Any) -> None:
            case.call_and_validate(base_url=server.url, session=session, checks=CHECKS, timeout=60)

        try_it()
        assert server.get("/health").status_code == 200
