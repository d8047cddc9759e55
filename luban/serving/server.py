"""The process around the application: one listening socket, and an end that lets answers come to theirs.

SIGTERM or Ctrl-C: nobody new is let in, answers on their way have `drain_s` to be finished, then the engine stops and
whoever still waits is told so. A second signal ends it at once. Nothing is on disk, so a kill leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from luban.errors import MachineError

LAST_WORDS_S = 5
"""For connections to be closed once the engine has stopped."""


class Server(uvicorn.Server):
    """uvicorn's server with our own way to end."""

    def __init__(self, app: Starlette, *, drain_s: float) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=LAST_WORDS_S,
        )
        super().__init__(config)
        self._state, self._drain_s = app.state, drain_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal has come; the process then ends as if it had done its work."""
        del sig, frame
        if self._state.closing.begun():
            self.should_exit = self.force_exit = True
        else:
            inside = self._state.inside.total()
            print(f"stopping: {inside} requests on their way", file=sys.stderr, flush=True)
            self._state.closing.begin()

    async def on_tick(self, counter: int) -> bool:
        """Several times a second: whether to end now."""
        closing = self._state.closing
        if closing.begun() and (not self._state.inside.total() or closing.begun(self._drain_s)):
            await asyncio.to_thread(self._state.served.engine.close)
            self.should_exit = True
        return await super().on_tick(counter)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one. Raises MachineError if there is none to be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        hint = "another --port, or 0 for a free one"
        raise MachineError(f"cannot listen: {error.strerror}", where=f"{host}:{port}", hint=hint) from None
    return listener
