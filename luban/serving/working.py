"""From a request to its answer, whole or as events: what completions and chats do alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any, Protocol, TypeVar

from starlette.requests import Request

from luban.serving.faults import json_response
from luban.serving.log import Record, record_of
from luban.serving.protocol import Writing
from luban.serving.reading import read
from luban.serving.served import Served, served_by
from luban.serving.sse import EventStream, until_gone

Form = TypeVar("Form", bound=Writing)


class Work(Protocol):
    """A request that the engine can begin with."""

    def chunks(self) -> AsyncGenerator[Any, None]: ...

    async def whole(self) -> Any: ...


async def worked(request: Request, form: type[Form], begin: Callable[[Served, Form, Record], Work]) -> Any:
    """The response to a request of this form."""
    served = served_by(request)
    asked = await read(request, form, served.limits)
    # In a thread of its own, since a long prompt takes a while to encode and others' streams go on.
    work = await asyncio.to_thread(begin, served, asked, record_of(request))
    if asked.stream:
        return EventStream(work.chunks(), timeout_s=served.limits.timeout_s)
    return json_response(await until_gone(request.receive, work.whole(), timeout_s=served.limits.timeout_s))
