"""Stage `prefer`: a page on this machine where people say which of two answers is better, and by how much.

The answers come from one model, twice, or from two; which one stands where is hidden until the vote. `<out>` fills
with `preferences.jsonl`, which `luban reward` and `luban dpo` read. Ctrl-C ends it, the same command goes on.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from annotated_types import Ge, Gt, Le

from luban.device import DeviceConfig
from luban.errors import ConfigError, MachineError

if TYPE_CHECKING:
    from luban.inference.session import ChatLM
    from luban.lm import OpenLM
    from luban.serving.pairing import Pairing

FREE = ("again", "host", "port", "browser", "device", "threads")
"""Settings that may change between two sessions of the same folder: the rows do not depend on them."""


@dataclass(frozen=True, kw_only=True)
class Config(DeviceConfig):
    """Collect preferences in the browser: two answers side by side, hidden whose they are, one key for a vote."""

    models: tuple[str, ...]
    """One model folder, which answers twice, or two to compare; with chat templates."""
    out: Path
    """Folder for preferences.jsonl (votes) and undecided.jsonl (ties, both bad, skipped); goes on where it stopped."""
    prompts: Path | None = None
    """Rows with a `prompt` (text or messages), conversations, or a text a line; none lets people type theirs."""
    mode: Literal["helpful", "harmless"] = "helpful"
    """Ask which answer is more helpful, or which is more harmful; then the other one is preferred."""
    again: bool = False
    """Ask once more for prompts that have been voted on."""
    max_tokens: Annotated[int, Ge(1)] = 256
    """Stop an answer after this many new tokens; the page says that it was cut off."""
    temperature: Annotated[float, Gt(0)] = 1.0
    """Spread of the answers."""
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    """Keep the smallest set of likeliest tokens whose probability reaches this."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of the answers and of which side they stand on."""
    host: str = "127.0.0.1"
    """Address to listen at; any but this machine's own lets others on the network vote, without a password."""
    port: Annotated[int, Ge(0), Le(65535)] = 8010
    """Port to listen at; 0 takes a free one."""
    browser: bool = False
    """Open the page in this machine's browser."""

    def __post_init__(self) -> None:
        if len(self.models) not in (1, 2) or len(set(self.models)) < len(self.models):
            what = f"one model, or two different ones, are compared, not {len(self.models)}"
            raise ConfigError(what, where="setting 'models'", hint="--models FOLDER [FOLDER]")


def run(config: Config, open_lm: OpenLM) -> dict[str, Any]:
    """Serve the page until Ctrl-C; returns how many votes there are, and where.

    Raises MachineError for a port that is taken, DataError naming the row for a prompt that cannot be asked.
    """
    _require_extra()
    from luban import device, folder
    from luban.serving.votes import PREFERENCES, UNDECIDED, Ledger

    with contextlib.closing(bound(config.host, config.port)) as listening:
        inputs = [*([config.prompts] if config.prompts else []), *config.models]
        folder.check_out(config.out, stage="prefer", config=config, inputs=inputs, free=FREE)
        device.start(config, seed=config.seed)
        models = {name: cast("ChatLM", open_lm(name)) for name in config.models}
        prompts = _prompts(config, models)
        folder.claim(config.out, stage="prefer", config=config, inputs=inputs, free=FREE)
        ledger = Ledger(config.out)
        _serve(config, _pairing(config, models, prompts, ledger), listening)
    kept, undecided = ledger.counts[PREFERENCES], ledger.counts[UNDECIDED]
    return {"preferences": kept, "undecided": undecided, "file": str(config.out / PREFERENCES)}


def bound(host: str, port: int) -> socket.socket:
    """A socket at this address, before anything is loaded; raises MachineError if there can be none."""
    where = f"{host}:{port}"
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise ConfigError(
            f"no such address: {error.strerror}", where=where, hint="--host 127.0.0.1"
        ) from None
    listening = socket.socket(family, kind)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
        listening.listen()
    except OSError as error:
        listening.close()
        taken = error.errno == errno.EADDRINUSE
        what = "the port is taken" if taken else f"cannot listen here: {error.strerror}"
        raise MachineError(
            what, where=where, hint=f"--port {port + 1}, or --port 0 for any free one"
        ) from None
    return listening


def _require_extra() -> None:
    try:
        import starlette  # noqa: F401 - whether they are there
        import uvicorn  # noqa: F401 - the same
    except ImportError as error:
        what = f"the page needs {error.name}, which is not installed"
        raise MachineError(what, hint="pip install 'luban[serve]'") from None


def _prompts(config: Config, models: Mapping[str, ChatLM]) -> list[Any]:
    """The file's prompts; a model that cannot chat is told before the first one."""
    from luban.serving.pairing import check_room
    from luban.serving.prefer_prompts import read_prompts

    check_room(models, [{"role": "user", "content": "?"}])
    return (
        read_prompts(config.prompts, lambda messages: check_room(models, messages)) if config.prompts else []
    )


def _pairing(config: Config, models: Mapping[str, ChatLM], prompts: list[Any], ledger: Any) -> Pairing:
    from luban.lm import Sampling
    from luban.serving.pairing import Pairing

    return Pairing(
        models,
        prompts,
        ledger,
        mode=config.mode,
        sampling=Sampling(max_tokens=config.max_tokens, temperature=config.temperature, top_p=config.top_p),
        seed=config.seed,
        again=config.again,
    )


def _serve(config: Config, pairing: Pairing, listening: socket.socket) -> None:
    import uvicorn

    from luban.serving.prefer_app import LOCAL, make_app

    host, port = listening.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    hosts = LOCAL if host in LOCAL else ("*",)
    print(f"prefer: {url} asks for {pairing.total} prompts, {pairing.asked} of them settled; Ctrl-C ends it",
          file=sys.stderr, flush=True)  # fmt: skip
    if config.browser:
        import webbrowser

        webbrowser.open(url)
    server = uvicorn.Server(uvicorn.Config(make_app(pairing, hosts=hosts), log_level="warning"))
    try:
        with contextlib.suppress(KeyboardInterrupt):  # the way to end it
            server.run(sockets=[listening])
    finally:
        pairing.close()
