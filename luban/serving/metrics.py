"""`/metrics` in Prometheus' text form: requests with their times and tokens, and what the engine says of itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from luban.inference.engine.engine import Stats
from luban.serving.log import Record

SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
TOKEN_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
GAUGES = {
    "requests": "Requests in the engine",
    "answers": "Answers in the engine",
    "pages": "Pages of keys and values",
    "used_pages": "Pages in use",
    "host_pages": "Pages waiting in the host's memory",
    "waste": "Share of held pages' room without a token",
    "hit_rate": "Share of tokens to be read that were found in the pool",
}
COUNTERS = {
    "finished": "Requests the engine finished",
    "aborted": "Requests whose callers left",
    "steps": "Passes of the model",
    "drawn_tokens": "Tokens drawn",
    "swapped_out": "Pages moved to the host",
    "swapped_in": "Pages moved back",
    "recomputed": "Tokens whose keys were computed again",
}


class EngineStats(Collector):
    """The engine's numbers at the moment they are asked for."""

    def __init__(self, stats: Callable[[], Stats]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """As prometheus_client asks."""
        stats = self._stats()
        for name, words in GAUGES.items():
            yield GaugeMetricFamily(f"luban_engine_{name}", words, value=getattr(stats, name))
        for name, words in COUNTERS.items():
            yield CounterMetricFamily(f"luban_engine_{name}", words, value=getattr(stats, name))


class Metrics:
    """The numbers of one server."""

    def __init__(self, stats: Callable[[], Stats], paths: frozenset[str]) -> None:
        """`paths` are told apart; all others are one, since callers can make up any number of them."""
        self._paths = paths
        self._registry = CollectorRegistry()
        self._registry.register(EngineStats(stats))
        known: dict[str, Any] = {"registry": self._registry}
        self._requests = Counter("luban_requests", "Requests answered", ["path", "status"], **known)
        self._seconds = Histogram(
            "luban_request_seconds", "Time to the end of an answer", ["path"], buckets=SECONDS, **known
        )
        self._first = Histogram(
            "luban_first_token_seconds", "Time to the first token", buckets=SECONDS, **known
        )
        self._each = Histogram("luban_token_seconds", "Time per later token", buckets=TOKEN_SECONDS, **known)
        self._tokens = Counter("luban_tokens", "Tokens read and drawn", ["kind"], **known)

    def count(self, record: Record) -> None:
        """A request has been answered."""
        path = record.path if record.path in self._paths else "other"
        self._requests.labels(path, str(record.status)).inc()
        self._seconds.labels(path).observe(record.seconds)
        self._tokens.labels("prompt").inc(record.prompt_tokens)
        self._tokens.labels("completion").inc(record.completion_tokens)
        if record.first_token_s is not None:
            self._first.observe(record.first_token_s)
            if record.completion_tokens > 1:
                later_s = record.seconds - record.first_token_s
                self._each.observe(later_s / (record.completion_tokens - 1))

    def text(self) -> bytes:
        """All numbers, a line each."""
        return generate_latest(self._registry)
