"""The access log: one JSON line on stderr for each request, with its times and tokens, and never its words or its key.

The same record feeds the metrics. It travels in the request's scope, and whoever answers fills in tokens and times.
"""

from __future__ import annotations

import datetime
import secrets
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TextIO

import orjson
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from luban.serving.faults import ServingError

FAILURE = ServingError("the server failed; its log says how", status=500, code="internal_error")
"""Our own mistake, whose traceback is in the log and not in the answer."""
PLACE = "luban.record"
"""Where in a request's scope its record is."""


@dataclass(kw_only=True)
class Record:
    """What is told of a request, its words left out. Times are seconds since it came."""

    id: str
    method: str
    path: str
    client: str
    came: float = field(default_factory=time.perf_counter)
    status: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_token_s: float | None = None
    seconds: float = 0.0

    def drew(self, tokens: int = 1) -> None:
        """Count new tokens of an answer, and note when the first one came."""
        if self.first_token_s is None:
            self.first_token_s = time.perf_counter() - self.came
        self.completion_tokens += tokens


def record_of(request: Request) -> Record:
    """The record that belongs to `request`."""
    return request.scope[PLACE]


@dataclass
class AccessLog:
    """ASGI middleware that gives each request an id (header `x-request-id`) and a record, and tells it at the end."""

    app: ASGIApp
    tell: Callable[[Record], None]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer through `app`."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        client = (scope.get("client") or ("",))[0]
        record = Record(id=secrets.token_hex(8), method=scope["method"], path=scope["path"], client=client)
        scope[PLACE] = record

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", record.id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, noting)
        except Exception:
            _write({"request": record.id, "error": traceback.format_exc()}, sys.stderr)
            if record.status:
                raise  # in the middle of an answer: the connection must break, or it would look whole
            await FAILURE.response(scope, receive, noting)
        finally:
            record.seconds = time.perf_counter() - record.came
            self.tell(record)


def write_record(record: Record, *, to: TextIO | None = None) -> None:
    """One line on stderr."""
    line: dict[str, Any] = {"request": record.id, "client": record.client, "method": record.method}
    line |= {"path": record.path, "status": record.status, "seconds": round(record.seconds, 6)}
    if record.prompt_tokens:
        line |= {"prompt_tokens": record.prompt_tokens, "completion_tokens": record.completion_tokens}
    if record.first_token_s is not None:
        line["first_token_s"] = round(record.first_token_s, 6)
    _write(line, to or sys.stderr)


def _write(line: dict[str, Any], to: TextIO) -> None:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    print(orjson.dumps({"time": now} | line).decode(), file=to, flush=True)
