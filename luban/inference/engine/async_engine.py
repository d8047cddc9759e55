"""The engine for many callers at once: a thread that owns it, and an async stream of events for each request.

Callers never touch the engine. What they want goes into a queue that the thread empties between two steps, and
each event goes back to the caller's own loop. Who stops listening, by leaving the loop or by being cancelled,
aborts the request: its pages are free before the next step.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from luban.errors import LubanError
from luban.inference.engine.engine import Engine, Stats
from luban.inference.engine.request import Event, Request

Result = TypeVar("Result")


@dataclass(eq=False)
class Listener:
    """A caller: where its request's events go, on its own loop."""

    loop: asyncio.AbstractEventLoop
    events: asyncio.Queue[Event | BaseException]

    def tell(self, news: Event | BaseException) -> None:
        """From the engine's thread; a caller whose loop is closed hears nothing more."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.events.put_nowait, news)


@dataclass(frozen=True)
class Wanted:
    """What a caller wants of the thread."""

    request: Request
    listener: Listener
    abort: bool = False


@dataclass(frozen=True)
class Call:
    """Something for the thread to do between two steps, and where its result goes."""

    do: Callable[[], Any]
    done: Future[Any]


class EngineStoppedError(LubanError):
    """The engine was closed, or failed, before the request was finished."""


class AsyncEngine:
    """`async for event in engine.generate(request)`, from any number of tasks and loops; a context manager."""

    def __init__(self, engine: Engine) -> None:
        """`engine` belongs to this object's thread from now on."""
        self._engine = engine
        self._wanted: queue.SimpleQueue[Wanted | Call | None] = queue.SimpleQueue()
        self._listeners: dict[str, Listener] = {}
        self._stopped: BaseException | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="luban-engine", daemon=True)
        self._thread.start()

    async def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        """The request's events as they come. Raises what `Engine.submit` does, and EngineStoppedError."""
        listener = Listener(asyncio.get_running_loop(), asyncio.Queue())
        self._send(Wanted(request, listener))
        done = False
        try:
            while not done:
                news = await listener.events.get()
                done = isinstance(news, BaseException) or news.last
                if isinstance(news, BaseException):
                    raise news
                yield news
        finally:
            if not done:
                self._send(Wanted(request, listener, abort=True))

    async def call(self, do: Callable[[], Result]) -> Result:
        """What `do` gives, on the engine's thread between two steps: the model is nobody else's meanwhile.

        Raises what it raises, and EngineStoppedError.
        """
        call = Call(do, Future())
        with self._lock:
            if self._stopped is not None:
                raise _stopped("call", self._stopped)
            self._wanted.put(call)
        return await asyncio.wrap_future(call.done)

    @property
    def stopped(self) -> bool:
        """Whether it was closed, or failed, and answers nothing any more."""
        return self._stopped is not None

    def stats(self) -> Stats:
        """As of about now: the numbers may be of two neighbouring steps."""
        return self._engine.stats()

    def close(self, timeout_s: float = 60.0) -> None:
        """Stop after the step that is running; unfinished requests end with EngineStoppedError. Twice is once."""
        self._wanted.put(None)
        self._thread.join(timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, wanted: Wanted) -> None:
        with self._lock:
            if self._stopped is None:
                self._wanted.put(wanted)
                return
        wanted.listener.tell(_stopped(wanted.request.id, self._stopped))

    def _work(self) -> None:
        """The thread: take what is wanted, step, tell; sleep while there is nothing to do."""
        reason: BaseException = EngineStoppedError("the engine was closed")
        try:
            while self._take():
                self._tell(self._engine.step())
        except BaseException as error:  # noqa: BLE001 - told to every caller, who would otherwise wait for ever
            reason = error
        self._stop(reason)

    def _tell(self, events: list[Event]) -> None:
        for event in events:
            listener = self._listeners[event.id]
            if event.last:
                del self._listeners[event.id]
            listener.tell(event)

    def _take(self) -> bool:
        """Do what callers want; waits for the first of them if there is no request. False: to be closed."""
        while not self._engine.busy or not self._wanted.empty():
            wanted = self._wanted.get()
            if wanted is None:
                return False
            if isinstance(wanted, Call):
                _do(wanted)
                if self._engine.busy:
                    return True  # a step between two calls, so that nobody's answer stands still
            elif wanted.abort:
                self._abort(wanted)
            else:
                self._submit(wanted)
        return True

    def _submit(self, wanted: Wanted) -> None:
        try:
            self._engine.submit(wanted.request)
        except LubanError as error:
            wanted.listener.tell(error)
        else:
            self._listeners[wanted.request.id] = wanted.listener

    def _abort(self, wanted: Wanted) -> None:
        """Only the request's own caller may, since an id can be of another request by now."""
        if self._listeners.get(wanted.request.id) is wanted.listener:
            del self._listeners[wanted.request.id]
            self._engine.abort(wanted.request.id)

    def _stop(self, reason: BaseException) -> None:
        with self._lock:
            self._stopped = reason
        for name, listener in self._listeners.items():
            listener.tell(_stopped(name, reason))
        while not self._wanted.empty():
            wanted = self._wanted.get()
            if isinstance(wanted, Call):
                _refuse(wanted, _stopped("call", reason))
            elif wanted is not None:
                wanted.listener.tell(_stopped(wanted.request.id, reason))
        self._listeners.clear()


def _do(call: Call) -> None:
    if not call.done.set_running_or_notify_cancel():
        return  # its caller has left
    try:
        call.done.set_result(call.do())
    except Exception as error:  # noqa: BLE001 - raised again at the caller
        call.done.set_exception(error)


def _refuse(call: Call, error: EngineStoppedError) -> None:
    if call.done.set_running_or_notify_cancel():
        call.done.set_exception(error)


def _stopped(name: str, reason: BaseException) -> EngineStoppedError:
    stopped = EngineStoppedError(f"the engine stopped: {reason}", where=f"request {name}")
    stopped.__cause__ = reason
    return stopped
