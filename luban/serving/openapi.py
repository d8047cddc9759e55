"""`/openapi.json`: the API as OpenAPI 3.1, made from the models of requests and answers, and `/docs`, its page."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import models_json_schema

from luban import __version__
from luban.serving import answers, protocol

FAULTS = {
    400: "what is asked cannot be honoured",
    401: "no API key, or an unknown one",
    404: "no such model",
    408: "the request did not come in time",
    413: "the request is too long",
    429: "come again after `Retry-After` seconds",
    503: "the server is stopping",
    504: "no whole answer in time",
}
SCHEMA_PLACE = "#/components/schemas/{model}"


@dataclass(frozen=True)
class Operation:
    """What one path does, from which request to which answer; `stream` is of its events."""

    path: str
    summary: str
    answer: Any
    asks: type[BaseModel] | None = None
    stream: bool = False


OPERATIONS = (
    Operation("/v1/models", "The model that is served", answers.Models),
    Operation(
        "/v1/completions", "Continue texts", answers.Completion, protocol.CompletionRequest, stream=True
    ),
    Operation(
        "/v1/chat/completions", "Answer a conversation", answers.Chat, protocol.ChatRequest, stream=True
    ),
    Operation("/v1/embeddings", "Texts as vectors", answers.Embeddings, protocol.EmbeddingRequest),
    Operation("/v1/score", "How likely continuations are", answers.Scores, protocol.ScoreRequest),
    Operation("/health", "Whether it answers", answers.Health),
)


def document(*, keys: bool) -> dict[str, Any]:
    """The whole API; `keys` says whether callers need one."""
    schemas = _schemas()
    paths = {one.path: {"post" if one.asks else "get": _operation(one)} for one in OPERATIONS}
    paths["/metrics"] = {
        "get": {"summary": "Numbers for Prometheus", "responses": {"200": _text("text/plain")}}
    }
    whole: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Luban",
            "version": __version__,
            "description": "A language model, as OpenAI's API.",
        },
        "paths": paths,
        "components": {"schemas": schemas},
    }
    if keys:
        whole["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        whole["security"] = [{"key": []}]
    return whole


def page(api: Mapping[str, Any]) -> str:
    """The API for people: each path with the fields of its request. No scripts, nothing from elsewhere."""
    parts = ["<!doctype html><meta charset=utf-8><title>Luban's API</title>"]
    parts += ["<style>body{font:16px/1.5 system-ui;max-width:50em;margin:2em auto;padding:0 1em}</style>"]
    parts += ["<h1>Luban's API</h1><p>For programs: <a href=/openapi.json>/openapi.json</a></p>"]
    for path, methods in api["paths"].items():
        for method, operation in methods.items():
            parts.append(
                f"<h2><code>{method.upper()} {path}</code></h2><p>{html.escape(operation['summary'])}</p>"
            )
            parts += _fields(api, operation)
    return "\n".join(parts)


def _fields(api: Mapping[str, Any], operation: Mapping[str, Any]) -> list[str]:
    if "requestBody" not in operation:
        return []
    name = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    schema = api["components"]["schemas"][name]
    needed = schema.get("required", ())
    rows = [
        f"<li><code>{field}</code>{' (needed)' if field in needed else ''}" for field in schema["properties"]
    ]
    return ["<ul>", *rows, "</ul>"]


def _operation(one: Operation) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": _named(one.answer)}}
    if one.stream:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    responses: dict[str, Any] = {"200": {"description": "The answer", "content": content}}
    guarded = {status: words for status, words in FAULTS.items() if one.asks or status in (401, 503)}
    for status, words in guarded.items():
        responses[str(status)] = {
            "description": words,
            "content": {"application/json": {"schema": _named(answers.Faulty)}},
        }
    told: dict[str, Any] = {"summary": one.summary, "responses": responses}
    if one.asks:
        told["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _named(one.asks)}},
        }
    return told


def _schemas() -> dict[str, Any]:
    """Every model by its name."""
    asked = [(one.asks, "validation") for one in OPERATIONS if one.asks]
    _, requests = models_json_schema(asked, ref_template=SCHEMA_PLACE)  # pyright: ignore[reportArgumentType] - the mode is a literal
    found: dict[str, Any] = dict(requests["$defs"])
    for answer in (*(one.answer for one in OPERATIONS), answers.Faulty):
        schema = TypeAdapter(answer).json_schema(ref_template=SCHEMA_PLACE)
        found |= schema.pop("$defs", {})
        found.setdefault(answer.__name__, schema)
    return found


def _named(kind: Any) -> dict[str, str]:
    return {"$ref": SCHEMA_PLACE.format(model=kind.__name__)}


def _text(kind: str) -> dict[str, Any]:
    return {"description": "Text", "content": {kind: {"schema": {"type": "string"}}}}
