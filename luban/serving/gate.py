"""The gate that every request passes: keys, rates, how many at once, how many wait.

Who must come again later is told when: 429 and `Retry-After`. A server that is told to stop lets nobody new in
(503) and ends when those inside have their answers.
"""

from __future__ import annotations

import hmac
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Receive, Scope, Send

from luban.serving.faults import ServingError
from luban.serving.limits import Limits

GUARDED = "/v1/"
"""Paths below this need a key and are counted; /health and /metrics are for the machines that watch."""
MINUTE_S = 60.0


@dataclass
class Bucket:
    """Requests that a caller may still make now; it fills up evenly over a minute."""

    left: float
    as_of: float


class Rate:
    """So many requests a minute for each caller, up to all of them at once."""

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute, self.clock = per_minute, clock
        self._buckets: dict[str, Bucket] = {}
        self._tidied = clock()

    def wait_s(self, caller: str) -> float:
        """Count a request of `caller`; or, if it is one too many, do not and say in how many seconds it is not."""
        if not self.per_minute:
            return 0.0
        now, speed = self.clock(), self.per_minute / MINUTE_S
        self._forget(now)
        bucket = self._buckets.setdefault(caller, Bucket(self.per_minute, now))
        bucket.left = min(self.per_minute, bucket.left + (now - bucket.as_of) * speed)
        bucket.as_of = now
        if bucket.left < 1:
            return (1 - bucket.left) / speed
        bucket.left -= 1
        return 0.0

    def _forget(self, now: float) -> None:
        """Once a minute, drop who has not come for so long and so has all again."""
        if now - self._tidied < MINUTE_S:
            return
        self._tidied = now
        for caller in [name for name, bucket in self._buckets.items() if now - bucket.as_of > MINUTE_S]:
            del self._buckets[caller]


@dataclass
class Closing:
    """Whether the server has been told to stop, and since when."""

    since: float | None = None

    def begin(self) -> None:
        """From now on nobody new comes in; twice is once."""
        self.since = time.monotonic() if self.since is None else self.since

    def begun(self, seconds: float = 0) -> bool:
        """Whether it began at least so long ago."""
        return self.since is not None and time.monotonic() - self.since >= seconds


@dataclass
class Gate:
    """ASGI middleware that lets a request in or tells why not; `inside` are those being answered."""

    app: ASGIApp
    limits: Limits
    keys: Sequence[str]
    closing: Closing
    waiting: Callable[[], int]
    """Answers that wait for a seat."""
    inside: Counter[str]
    """Requests being answered, by caller; shared with who waits for them to end."""
    rate: Rate = field(init=False)

    def __post_init__(self) -> None:
        self.rate = Rate(self.limits.requests_per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer through `app`, or refuse."""
        guarded = scope["type"] == "http" and scope["path"].startswith(GUARDED)
        if not guarded or scope["method"] == "OPTIONS":
            await self.app(scope, receive, send)
            return
        caller, refusal = self._admit(scope)
        if refusal is not None:
            await refusal.response(scope, receive, send)
            return
        self.inside[caller] += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.inside[caller] -= 1
            self.inside += Counter()  # forgets callers at 0

    def _admit(self, scope: Scope) -> tuple[str, ServingError | None]:
        """Who is asking, and why they may not."""
        if self.closing.begun():
            return "", ServingError("the server is stopping", status=503, code="stopping", retry_after_s=30)
        key = _bearer(scope)
        if self.keys and not any(hmac.compare_digest(key.encode(), known.encode()) for known in self.keys):
            what = "this key is not known" if key else "no API key; send Authorization: Bearer KEY"
            return "", ServingError(what, status=401, code="invalid_api_key")
        caller = key if self.keys else (scope.get("client") or ("",))[0]
        return caller, self._too_much(caller) if scope["method"] == "POST" else None

    def _too_much(self, caller: str) -> ServingError | None:
        limits = self.limits
        if self.inside.total() >= limits.max_requests:
            what = f"{limits.max_requests} requests are being answered, which is all at once"
        elif limits.max_requests_per_key and self.inside[caller] >= limits.max_requests_per_key:
            what = f"{limits.max_requests_per_key} of your requests are being answered, which is all at once"
        elif self.waiting() > limits.max_waiting:
            what = f"more than {limits.max_waiting} answers wait for a seat"
        elif wait_s := self.rate.wait_s(caller):
            what = f"more than {limits.requests_per_minute} requests a minute"
            return ServingError(what, status=429, code="rate_limit_exceeded", retry_after_s=wait_s)
        else:
            return None
        return ServingError(what, status=429, code="overloaded", retry_after_s=1)


def _bearer(scope: Scope) -> str:
    """The key in the request's header, or nothing."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            kind, _, key = value.decode("latin-1").partition(" ")
            return key.strip() if kind.lower() == "bearer" else ""
    return ""
