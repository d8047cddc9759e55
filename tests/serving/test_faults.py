"""What is not honoured is refused by name in OpenAI's form, and a bad request harms nobody."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from luban.serving import protocol
from luban.serving.refusals import HARMLESS, REFUSED
from tests.serving.running import Running, running

PATHS = {
    "/v1/completions": {"prompt": "a", "max_tokens": 1},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1},
    "/v1/embeddings": {"input": "a"},
    "/v1/score": {"pairs": [["a", "b"]]},
}
KINDS = {
    "/v1/completions": protocol.CompletionRequest,
    "/v1/chat/completions": protocol.ChatRequest,
    "/v1/embeddings": protocol.EmbeddingRequest,
    "/v1/score": protocol.ScoreRequest,
}


def refusal(server: Running, path: str, body: Any = None, status: int = 400, **more: Any) -> dict[str, Any]:
    """The error object of a refused request, in which nothing is missing or too much."""
    answer = server.post(path, body, **more)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    return error


@pytest.mark.parametrize("path", PATHS)
def test_an_unknown_field_is_told_the_nearest(server: Running, path: str) -> None:
    error = refusal(server, path, {**PATHS[path], "modle": "tiny"})
    assert error == {
        "message": "unknown field 'modle'; did you mean 'model'?",
        "type": "invalid_request_error",
        "param": "modle",
        "code": "unknown_parameter",
    }


@pytest.mark.parametrize(
    ("path", "field"), [(path, field) for path, kind in KINDS.items() for field in REFUSED[kind.__name__]]
)
def test_a_field_that_is_not_honoured_is_refused_unless_it_asks_for_nothing(
    server: Running, path: str, field: str
) -> None:
    error = refusal(server, path, {**PATHS[path], field: {"surely": "something"}})
    assert (error["param"], error["code"]) == (field, "unsupported_parameter")
    refused = REFUSED[KINDS[path].__name__][field]
    assert refused.reason in error["message"]
    for neutral in (None, *refused.neutral):
        assert server.post(path, {**PATHS[path], field: neutral}).status_code == 200


@pytest.mark.parametrize("path", PATHS)
def test_fields_without_effect_are_accepted_everywhere(server: Running, path: str) -> None:
    answer = server.post(path, PATHS[path] | dict.fromkeys(HARMLESS, "x"))
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("path", "change", "param"),
    [
        ("/v1/completions", {"prompt": ""}, "prompt"),
        ("/v1/completions", {"prompt": []}, "prompt"),
        ("/v1/completions", {"prompt": 5}, "prompt"),
        ("/v1/completions", {"prompt": [["a"]]}, "prompt.0.0"),
        ("/v1/completions", {"prompt": [5, 384]}, "prompt"),
        ("/v1/completions", {"prompt": [5, -1]}, "prompt.1"),
        ("/v1/completions", {"n": 0}, "n"),
        ("/v1/completions", {"n": "2"}, "n"),
        ("/v1/completions", {"n": True}, "n"),
        ("/v1/completions", {"n": 3, "best_of": 2}, "best_of"),
        ("/v1/completions", {"best_of": 2, "stream": True}, "best_of"),
        ("/v1/completions", {"best_of": 2, "logprobs": 1}, "logprobs"),
        ("/v1/completions", {"logprobs": 385}, "logprobs"),
        ("/v1/completions", {"temperature": -1}, "temperature"),
        ("/v1/completions", {"top_p": 0}, "top_p"),
        ("/v1/completions", {"seed": 2**63}, "seed"),
        ("/v1/completions", {"seed": 1.5}, "seed"),
        ("/v1/completions", {"stop": ""}, "stop"),
        ("/v1/completions", {"stop": ["a", 3]}, "stop.1"),
        ("/v1/completions", {"logit_bias": {"384": 1}}, "logit_bias"),
        ("/v1/completions", {"logit_bias": {"the": 1}}, "logit_bias"),
        ("/v1/completions", {"logit_bias": {"5": 101}}, "logit_bias.5"),
        ("/v1/completions", {"stop_token_ids": [384]}, "stop_token_ids"),
        ("/v1/completions", {"allowed_token_ids": []}, "allowed_token_ids"),
        ("/v1/completions", {"stream_options": {}}, "stream_options"),
        ("/v1/completions", {"stream": True, "stream_options": {"foo": 1}}, "stream_options.foo"),
        ("/v1/completions", {"guided_regex": "a", "guided_choice": ["b"]}, "guided_choice"),
        ("/v1/chat/completions", {"messages": []}, "messages"),
        ("/v1/chat/completions", {"messages": [{"role": "pope", "content": "a"}]}, "messages.0.role"),
        ("/v1/chat/completions", {"messages": [{"role": "user"}]}, "messages.0.content"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages.0.content.0.type",
        ),
        ("/v1/chat/completions", {"top_logprobs": 2}, "top_logprobs"),
        ("/v1/chat/completions", {"response_format": {"type": "xml"}}, "response_format"),
        (
            "/v1/chat/completions",
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": 3}}},
            "response_format.json_schema.schema",
        ),
        ("/v1/embeddings", {"input": [""]}, "input"),
        ("/v1/embeddings", {"encoding_format": "hex"}, "encoding_format"),
        ("/v1/score", {"pairs": [["a"]]}, "pairs.0"),
        ("/v1/score", {"pairs": []}, "pairs"),
    ],
)
def test_a_bad_value_is_told_by_its_place(
    server: Running, path: str, change: dict[str, Any], param: str
) -> None:
    error = refusal(server, path, PATHS[path] | change)
    assert error["param"] == param
    assert param.split(".", maxsplit=1)[0] in error["message"]


@pytest.mark.parametrize("path", PATHS)
def test_a_missing_field_is_named(server: Running, path: str) -> None:
    field = next(iter(PATHS[path]))
    assert refusal(server, path, {})["param"] == field


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1]",
        b"nonsense",
        b'{"prompt": NaN}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "\xff"}',
        b"[" * 10**5,
    ],
)
def test_what_is_no_json_object_is_refused(server: Running, body: bytes) -> None:
    assert refusal(server, "/v1/completions", content=body)["code"] == "invalid_json"


def test_a_prompt_beyond_the_window_is_openais_error(server: Running) -> None:
    long = [{"role": "user", "content": "long " * 100}]
    with pytest.raises(openai.BadRequestError, match="no room for an answer") as caught:
        server.client().chat.completions.create(model="tiny", messages=long)  # pyright: ignore[reportArgumentType] - a plain dict
    assert caught.value.code == "context_length_exceeded"
    assert refusal(server, "/v1/score", {"pairs": [["a " * 100, "b"]]})["code"] == "invalid_value"


def test_a_fault_before_the_first_event_is_a_plain_error_in_a_stream_too(server: Running) -> None:
    error = refusal(server, "/v1/completions", {"prompt": "a", "stream": True, "guided_regex": "("})
    assert error["code"] == "invalid_value"


def test_another_model_is_not_found(server: Running) -> None:
    for path, body in PATHS.items():
        error = refusal(server, path, {**body, "model": "gpt-4"}, status=404)
        assert (error["code"], error["param"]) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError, match="'tiny' is"):
        server.client().models.retrieve("gpt-4")


def test_unknown_paths_and_methods_are_told_in_the_same_form(server: Running) -> None:
    assert refusal(server, "/v1/nothing", {}, status=404)["type"] == "not_found_error"
    answer = server.get("/v1/completions")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert "does not take this method" in answer.json()["error"]["message"]


def test_pages_for_people_stand_beside_the_api() -> None:
    with running(keys=("alpha",)) as server:
        assert server.get("/").headers["content-type"].startswith("text/html")
        headers = {"Authorization": "Bearer alpha"}
        assert server.get("/v1/completions", headers=headers).status_code == 405
        assert server.get("/v1/nothing", headers=headers).json()["error"]["code"] == "not_found"
        assert server.get("/nothing").json()["error"]["code"] == "not_found"


def test_our_own_mistake_is_a_500_that_tells_nothing_inside(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with running() as server:
        monkeypatch.setattr(server.served.lm, "score", lambda _: 1 / 0)
        error = refusal(server, "/v1/score", PATHS["/v1/score"], status=500)
        assert error["type"] == "server_error"
        assert "division" not in str(error)
        assert "ZeroDivisionError" in capsys.readouterr().err
        assert server.post("/v1/completions", PATHS["/v1/completions"]).status_code == 200


def test_an_engine_that_failed_is_unhealthy(monkeypatch: pytest.MonkeyPatch) -> None:
    with running() as server:

        def fail(*_: Any) -> None:
            raise RuntimeError("out of memory")

        monkeypatch.setattr(server.served.engine._engine.memory, "forward", fail)
        for _ in range(2):
            assert (
                refusal(server, "/v1/completions", PATHS["/v1/completions"], status=503)["code"]
                == "engine_stopped"
            )
        assert server.get("/health").status_code == 503


@pytest.mark.parametrize("field", ["temperature", "top_p", "typical_p", "min_p"])
def test_the_smallest_number_of_all_still_leaves_a_token(server: Running, field: str) -> None:
    body = {"prompt": "The quick", "max_tokens": 4, "ignore_eos": True, field: 5e-324}
    answer = server.post("/v1/completions", body)
    assert answer.status_code == 200, answer.text
    if field != "min_p":
        greedy = server.post("/v1/completions", {**body, field: 1, "temperature": 0})
        assert field == "typical_p" or answer.json()["choices"] == greedy.json()["choices"]


@pytest.mark.parametrize(
    "more",
    [
        {"allowed_token_ids": [50], "logit_bias": {"50": -100}},
        {"allowed_token_ids": [50], "no_repeat_ngram_size": 1},
        {"allowed_token_ids": [50], "stop_token_ids": [50], "min_tokens": 3},
        {"guided_choice": ["a"], "allowed_token_ids": [50], "bad_words": ["a"]},
        {"repetition_penalty": 0.01, "presence_penalty": 2, "frequency_penalty": -2},
    ],
)
def test_rules_that_leave_nothing_do_not_stop_the_engine(server: Running, more: dict[str, Any]) -> None:
    answer = server.post("/v1/completions", {"prompt": "The quick", "max_tokens": 4} | more)
    assert answer.status_code == 200, answer.text
