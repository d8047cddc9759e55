"""How much callers may have at once, as settings; `gate.py` enforces most of it. No web library is needed here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt

from luban.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much callers may have."""

    max_body_bytes: Annotated[int, Ge(1)] = 4 << 20
    """Longest request; beyond it 413."""
    max_requests: Annotated[int, Ge(1)] = 512
    """Most requests at once, of all callers; beyond them 429."""
    max_requests_per_key: Annotated[int, Ge(0)] = 0
    """Most requests at once of one key, or of one address where there are no keys; 0 is no limit of its own."""
    max_waiting: Annotated[int, Ge(0)] = 256
    """Most answers that wait for one of the engine's seats before new requests get 429."""
    requests_per_minute: Annotated[int, Ge(0)] = 0
    """Of one key, or of one address where there are no keys; 0 is no limit."""
    max_answers: Annotated[int, Ge(1)] = 256
    """Most answers to one request: its prompts times `n` or `best_of`."""
    max_logprobs: Annotated[int, Ge(0)] = 20
    """Most of the likeliest tokens told in each place."""
    body_timeout_s: Annotated[float, Gt(0)] = 30.0
    """For a request to come in whole; beyond it 408."""
    timeout_s: Annotated[float, Gt(0)] = 600.0
    """For its answer; beyond it 504, or an error in the stream."""


def read_keys(path: Path) -> tuple[str, ...]:
    """The API keys in a file, one a line; raises ConfigError if there is none."""
    if not path.is_file():
        raise ConfigError("no such file of API keys", where=path)
    keys = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    if not keys:
        raise ConfigError("the file holds no API key", where=path, hint="one key a line")
    return keys
