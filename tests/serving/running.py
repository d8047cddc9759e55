"""A real server on a real socket, in a thread of the test's process."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2 as httpx
import openai
import torch

from luban.inference.engine.config import EngineConfig
from luban.inference.local import LocalLM
from luban.serving.app import make_app
from luban.serving.limits import Limits
from luban.serving.served import Served, serve_model
from luban.serving.server import Server, listen
from tests import tiny

HTTP = httpx.Client(timeout=60, trust_env=False)
"""Made once, since that takes longer than an answer."""


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    url: str
    served: Served
    server: Server

    def client(self, key: str = "none") -> openai.OpenAI:
        """The official client, which does not try again by itself."""
        url = f"{self.url}/v1"
        return openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=60, http_client=HTTP)

    def post(self, path: str, body: Any = None, **more: Any) -> httpx.Response:
        """A plain request."""
        more = more if body is None else {"json": body, **more}
        return HTTP.post(f"{self.url}{path}", **more)

    def get(self, path: str, **more: Any) -> httpx.Response:
        """A plain request for something."""
        return HTTP.get(f"{self.url}{path}", **more)

    def settled(self) -> bool:
        """Whether the engine has nothing left and has lost no page, waiting a while for it."""
        engine = self.served.engine
        return wait_for(lambda: engine.stats().requests == engine.stats().used_pages == 0)


def wait_for(true: Callable[[], bool], *, seconds: float = 30) -> bool:
    """Whether it becomes true in time."""
    ends = time.monotonic() + seconds
    while not true() and time.monotonic() < ends:
        time.sleep(0.005)
    return true()


def made_loud(family: Callable[..., Any], **changes: Any) -> Any:
    """A model with six times its weights, always the same."""
    torch.manual_seed(5)
    model = family(**changes)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6)
    return model.eval()


def tiny_lm(**changes: Any) -> LocalLM:
    """A tiny chat model whose logits are spread, so that rounding decides nothing."""
    return LocalLM(made_loud(tiny.llama, **changes), tiny.tokenizer(), name="tiny")


@contextlib.contextmanager
def running(
    lm: LocalLM | None = None,
    *,
    limits: dict[str, Any] | None = None,
    keys: Sequence[str] = (),
    origins: Sequence[str] = (),
    drain_s: float = 5,
    log: bool = False,
    **engine: Any,
) -> Iterator[Running]:
    """A server until the end of the block; asserts then that no page was lost."""
    config = EngineConfig(**({"pages": 256, "page_size": 4, "policy": "fcfs"} | engine))
    served = serve_model(lm or tiny_lm(), name="", engine=config, limits=Limits(**(limits or {})))
    with listen("127.0.0.1", 0) as listener, served.engine:
        app = make_app(served, keys=keys, origins=origins, access_log=log)
        server = Server(app, drain_s=drain_s)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        assert wait_for(lambda: server.started)
        here = Running(f"http://127.0.0.1:{listener.getsockname()[1]}", served, server)
        try:
            yield here
            if not served.engine.stopped:
                assert here.settled()
                served.engine._engine.check()
        finally:
            server.should_exit = True
            thread.join(30)
