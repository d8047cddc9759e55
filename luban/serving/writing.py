"""Several requests to the engine as one stream of events, which stops all of them when it is left."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence

from luban.inference.engine.async_engine import AsyncEngine
from luban.inference.engine.request import Event, Request
from luban.serving.log import Record

News = tuple[int, Event] | BaseException


async def write(
    engine: AsyncEngine, requests: Sequence[Request], record: Record
) -> AsyncGenerator[tuple[int, Event], None]:
    """Events as they come, each with its request's place; what was read and drawn goes into `record`.

    Raises what the engine does of any of them. Close it (`contextlib.aclosing`): that aborts what is unfinished.
    """
    news: asyncio.Queue[News] = asyncio.Queue()
    tasks = [asyncio.create_task(_listen(engine, *numbered, news)) for numbered in enumerate(requests)]
    record.prompt_tokens += sum(len(request.prompt) for request in requests)
    unfinished = len(requests)
    try:
        while unfinished:
            told = await news.get()
            if isinstance(told, BaseException):
                raise told
            _, event = told
            if event.token is not None:
                record.drew()
            elif event.answer is not None:
                record.drew(len(event.answer.tokens))
            unfinished -= event.last
            yield told
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _listen(engine: AsyncEngine, place: int, request: Request, news: asyncio.Queue[News]) -> None:
    """Pass one request's events on, and what ends them otherwise."""
    try:
        async with contextlib.aclosing(engine.generate(request)) as events:
            async for event in events:
                news.put_nowait((place, event))
    except Exception as error:  # noqa: BLE001 - raised again by who reads the news, who would wait for ever
        news.put_nowait(error)
