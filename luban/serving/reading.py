"""From the bytes of a request to what is asked: bounded in size and time, strict, every fault named by its field."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from luban.errors import nearest
from luban.serving.faults import ClientGone, ServingError
from luban.serving.limits import Limits
from luban.serving.refusals import HARMLESS, REFUSED

Asked = TypeVar("Asked", bound=BaseModel)


async def read(request: Request, kind: type[Asked], limits: Limits) -> Asked:
    """What `request` asks. Raises ServingError that names the field, and ClientGone."""
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            body = await _body(request, limits.max_body_bytes)
    except TimeoutError:
        what = f"the request did not come within {limits.body_timeout_s:g} s"
        raise ServingError(what, status=408, code="request_timeout") from None
    return parse(body, kind)


def parse(body: bytes, kind: type[Asked]) -> Asked:
    """The request in `body`. Raises ServingError."""
    try:
        tree = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ServingError(f"the body is not JSON: {error.msg} ({place})", code="invalid_json") from None
    if not isinstance(tree, dict):
        raise ServingError("the body is not a JSON object", code="invalid_json")
    try:
        return kind.model_validate(_without_idle(tree, kind))
    except ValidationError as error:
        raise _named(error, tree) from None


async def _body(request: Request, most: int) -> bytes:
    """The whole body; stops reading where it is longer than `most` bytes."""
    parts: list[bytes] = []
    size = 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > most:
                what = f"the request is longer than {most} bytes"
                raise ServingError(what, status=413, code="request_too_large")
            parts.append(part)
    except ClientDisconnect:
        raise ClientGone from None
    return b"".join(parts)


def _without_idle(tree: dict[str, Any], kind: type[BaseModel]) -> dict[str, Any]:
    """The fields that mean something. Raises ServingError for one that is not honoured or not known."""
    names = {field.alias or name for name, field in kind.model_fields.items()}
    refused = REFUSED[kind.__name__]
    kept: dict[str, Any] = {}
    for name, value in tree.items():
        if name in names:
            kept[name] = value
        elif name in refused:
            if value is not None and value not in refused[name].neutral:
                what = f"'{name}' is not supported: {refused[name].reason}"
                raise ServingError(what, param=name, code="unsupported_parameter")
        elif name not in HARMLESS:
            advice = nearest(name, [*names, *HARMLESS])
            raise ServingError(f"unknown field '{name}'; {advice}", param=name, code="unknown_parameter")
    return kept


def _named(error: ValidationError, tree: dict[str, Any]) -> ServingError:
    """The first field at fault, as the alternative for it that comes furthest says it, and all expected there."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    field = faults[0]["loc"][0]
    alternatives: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for fault in faults:
        if fault["loc"][0] == field:
            path, names = _path(fault["loc"], tree)
            alternatives.setdefault(names, []).append((path, fault["msg"]))
    furthest = max(alternatives.values(), key=lambda told: (told[0][0].count("."), -len(told)))
    path = furthest[0][0]
    expected = {message: None for told in alternatives.values() for other, message in told if other == path}
    return ServingError(f"'{path}': {', or: '.join(expected)}", param=path, code="invalid_value")


def _path(location: Sequence[int | str], value: Any) -> tuple[str, tuple[str, ...]]:
    """Where in the request a fault is, and pydantic's names for alternatives on the way, which are not in it."""
    path: list[str] = []
    names: list[str] = []
    for part in location:
        if isinstance(value, list) and isinstance(part, int):
            value = value[part] if part < len(value) else None
        elif isinstance(value, dict) and (part in value or part == location[-1]):
            value = value.get(part)
        else:
            names.append(str(part))
            continue
        path.append(str(part))
    return ".".join(path), tuple(names)
