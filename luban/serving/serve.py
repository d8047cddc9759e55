"""Stage `serve`: a model behind an HTTP server that OpenAI's clients can talk to."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from annotated_types import Ge, Le

from luban.device import DeviceConfig
from luban.errors import MachineError
from luban.inference.engine.config import EngineConfig
from luban.lm import OpenLM
from luban.serving.limits import Limits, read_keys

if TYPE_CHECKING:
    from luban.inference.local import LocalLM


@dataclass(frozen=True, kw_only=True)
class Config(DeviceConfig):
    """Answer requests over HTTP as OpenAI's API does, until SIGTERM or Ctrl-C.

    Paths: / (a page to chat), /docs, /v1/models, /v1/completions, /v1/chat/completions, /v1/embeddings, /v1/score,
    /health, /metrics.
    """

    model: str
    """Model folder."""
    name: str = ""
    """What callers call the model; empty takes the folder's name."""
    host: str = "127.0.0.1"
    """The address to listen on; 0.0.0.0 is every one of this machine's, for which keys are wise."""
    port: Annotated[int, Ge(0), Le(65535)] = 8000
    """The port to listen on; 0 takes a free one and tells it."""
    api_keys: Path | None = None
    """A file of keys, one a line, of which a caller must send one; without it anyone may ask."""
    cors_origins: tuple[str, ...] = ()
    """Web sites whose pages may ask, `https://example.org`; `*` is all."""
    access_log: bool = True
    """Tell each request on stderr, a JSON line without its words."""
    drain_s: Annotated[float, Ge(0)] = 30.0
    """For answers on their way to be finished once the server is told to stop."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """How the engine works."""
    limits: Limits = field(default_factory=Limits)
    """How much callers may have."""


def run(config: Config, open_lm: OpenLM) -> dict[str, Any]:
    """Serve until told to stop; returns what was done.

    Raises MachineError without the extra `serve` or a free port, and ModelError for a model the engine cannot run.
    """
    try:
        from luban.serving.server import Server, listen
    except ModuleNotFoundError as error:
        what = f"serving needs '{error.name}'"
        raise MachineError(what, where="luban serve", hint="pip install 'luban[serve]'") from None
    from luban.serving.app import make_app
    from luban.serving.served import serve_model

    keys = read_keys(config.api_keys) if config.api_keys else ()
    with listen(config.host, config.port) as listener:
        lm = cast("LocalLM", open_lm(config.model))
        served = serve_model(lm, name=config.name, engine=config.engine, limits=config.limits)
        with served.engine:
            app = make_app(served, keys=keys, origins=config.cors_origins, access_log=config.access_log)
            _announce(served.name, *listener.getsockname()[:2])
            Server(app, drain_s=config.drain_s).run(sockets=[listener])
        stats = served.engine.stats()
    return {
        "model": served.name,
        "finished": stats.finished,
        "aborted": stats.aborted,
        "drawn_tokens": stats.drawn_tokens,
    }


def _announce(name: str, host: str, port: int) -> None:
    where = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    print(
        f"serving {name} at {where}/v1; chat at {where}/, fields at {where}/docs", file=sys.stderr, flush=True
    )
