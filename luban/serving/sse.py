"""Answers that end with their reader: server-sent events as OpenAI sends them, and plain ones that are waited for.

Whoever hangs up cancels the work at once, while it waits for a token as well as while it sends one, so that the
engine has its pages back before the next step.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

import orjson
from starlette.types import Receive, Scope, Send

from luban.errors import LubanError
from luban.serving.faults import ClientGone, ServingError, as_serving_error

Result = TypeVar("Result")
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
DONE = b"data: [DONE]\n\n"


async def until_gone(receive: Receive, work: Coroutine[Any, Any, Result], *, timeout_s: float) -> Result:
    """What `work` gives. Raises ClientGone once the caller hangs up, and ServingError after `timeout_s`."""
    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        async with asyncio.timeout(timeout_s):
            await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
    except TimeoutError:
        raise ServingError(f"no whole answer within {timeout_s:g} s", status=504, code="timeout") from None
    else:
        if working.done():
            return working.result()
        raise ClientGone
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.wait((working, watching))


class EventStream:
    """A response of JSON objects as they come, each an event. A fault before the first one is a plain error."""

    def __init__(self, events: AsyncGenerator[Any, None], *, timeout_s: float) -> None:
        self._events, self._timeout_s = events, timeout_s
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all, as an ASGI application."""
        del scope
        try:
            await until_gone(receive, self._send_all(send), timeout_s=self._timeout_s)
        except LubanError as error:
            if not self._started:
                raise
            await _send(send, _event(as_serving_error(error).body), more=False)
        except ClientGone:
            if not self._started:
                raise

    async def _send_all(self, send: Send) -> None:
        async with contextlib.aclosing(self._events) as events:
            async for value in events:
                if not self._started:
                    self._started = True
                    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
                await _send(send, _event(value))
                await asyncio.sleep(0)  # one turn of the loop, in which a hang-up is noticed
        await _send(send, DONE, more=False)


def _event(value: Any) -> bytes:
    return b"data: " + orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS) + b"\n\n"


async def _send(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def _gone(receive: Receive) -> None:
    """Return when the caller has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass
