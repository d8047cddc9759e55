"""Many callers, one thread: each hears of its own request only, and who leaves frees the pages."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from luban.errors import PromptError
from luban.inference.engine.async_engine import AsyncEngine, EngineStoppedError
from luban.inference.engine.request import Event, Request
from luban.inference.generate import generate_tokens
from tests import tiny
from tests.inference.engine.served import GREEDY, engine_of, loud, request

LONG = dataclasses.replace(GREEDY, max_tokens=55)


@pytest.fixture(scope="module")
def llama() -> Any:
    return loud("llama")


@pytest.fixture
def engine(llama: Any) -> Iterator[AsyncEngine]:
    with AsyncEngine(engine_of(llama)) as opened:
        yield opened


async def listen(engine: AsyncEngine, one: Request) -> list[Event]:
    return [event async for event in engine.generate(one)]


def settled(engine: AsyncEngine) -> bool:
    """Whether the thread has nothing left, waiting a while for it."""
    ends = time.monotonic() + 30
    while engine.stats().requests and time.monotonic() < ends:
        time.sleep(0.005)
    return engine.stats().requests == engine.stats().used_pages == 0


def test_callers_at_once_each_get_their_own_answer(engine: AsyncEngine, llama: Any) -> None:
    prompts = [[5, 300, 17], [9], [44, 45, 46, 47]]

    async def all_at_once() -> list[list[Event]]:
        return await asyncio.gather(*(listen(engine, request(str(n), p)) for n, p in enumerate(prompts)))

    heard = asyncio.run(all_at_once())
    made = generate_tokens(llama, prompts, [GREEDY] * 3, tokenizer=tiny.tokenizer(), stop_ids=frozenset())
    assert [[event.token for event in events] for events in heard] == [answer.tokens for answer in made]
    assert all(events[-1].last for events in heard)


def test_a_caller_that_is_cancelled_frees_its_pages(engine: AsyncEngine) -> None:
    async def begin_and_cancel() -> None:
        task = asyncio.create_task(listen(engine, request("r", [5], LONG)))
        while not engine.stats().drawn_tokens:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(begin_and_cancel())
    assert settled(engine)
    assert engine.stats().aborted == 1


def test_a_caller_that_leaves_the_loop_frees_its_pages(engine: AsyncEngine) -> None:
    async def hear_one() -> None:
        stream = engine.generate(request("r", [5], LONG))
        await anext(stream)
        await stream.aclose()

    asyncio.run(hear_one())
    assert settled(engine)


def test_a_refused_request_raises_at_its_caller_and_harms_no_other(engine: AsyncEngine) -> None:
    async def both() -> tuple[Any, Any]:
        return await asyncio.gather(
            listen(engine, request("bad", [])), listen(engine, request("good", [5])), return_exceptions=True
        )

    bad, good = asyncio.run(both())
    assert isinstance(bad, PromptError)
    assert len(good) == GREEDY.max_tokens


def test_closing_ends_what_is_on_its_way_and_refuses_what_comes(llama: Any) -> None:
    engine = AsyncEngine(engine_of(llama))

    async def close_under_way() -> None:
        stream = engine.generate(request("r", [5], LONG))
        await anext(stream)
        engine.close()
        with pytest.raises(EngineStoppedError, match="request r: the engine stopped: the engine was closed"):
            await asyncio.wait_for(_rest(stream), 30)

    asyncio.run(close_under_way())
    engine.close()
    with pytest.raises(EngineStoppedError):
        asyncio.run(listen(engine, request("late", [5])))


def test_a_call_runs_on_the_engines_thread_between_two_steps(engine: AsyncEngine) -> None:
    async def answer_and_calls() -> tuple[list[Event], list[str]]:
        task = asyncio.create_task(listen(engine, request("r", [5], LONG)))
        names = [await engine.call(lambda: threading.current_thread().name) for _ in range(5)]
        with pytest.raises(ZeroDivisionError):
            await engine.call(lambda: 1 / 0)
        return await task, names

    heard, names = asyncio.run(answer_and_calls())
    assert names == ["luban-engine"] * 5
    assert len(heard) == LONG.max_tokens
    engine.close()
    assert engine.stopped
    with pytest.raises(EngineStoppedError):
        asyncio.run(engine.call(lambda: None))


def test_a_failing_step_is_told_to_every_caller(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = engine_of(llama)

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(inner.memory, "forward", fail)
    with AsyncEngine(inner) as engine, pytest.raises(EngineStoppedError, match="out of memory"):
        asyncio.run(listen(engine, request("r", [5])))


async def _rest(stream: Any) -> None:
    async for _ in stream:
        pass
