"""Who is let in, and what the others are told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from luban.errors import ConfigError
from luban.serving.gate import Rate
from luban.serving.limits import read_keys
from tests.serving.running import HTTP, Running, running, wait_for

LONG = {"prompt": "a", "max_tokens": 30, "ignore_eos": True}
SHORT = {"prompt": "a", "max_tokens": 1}


def in_background(do: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Start `do`; its result will be in the list."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(do()))
    thread.start()
    return thread, results


def under_way(server: Running, count: int = 1) -> bool:
    return wait_for(lambda: server.served.engine.stats().requests >= count)


def refused(server: Running, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """The error of a request that comes too much."""
    answer = server.post("/v1/completions", SHORT, headers=headers)
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    return answer.json()["error"]


def slowly(server: Running, monkeypatch: pytest.MonkeyPatch, seconds: float = 0.02) -> None:
    """Let every step of the engine take a while, so that requests are surely there at once."""
    inner = server.served.engine._engine
    step = inner.step

    def wait_and_step() -> Any:
        threading.Event().wait(seconds)
        return step()

    monkeypatch.setattr(inner, "step", wait_and_step)


def test_a_key_is_needed_where_there_are_keys() -> None:
    with running(keys=("alpha", "beta")) as server:
        for headers in ({}, {"Authorization": "Bearer gamma"}, {"Authorization": "Basic alpha"}):
            answer = server.post("/v1/completions", SHORT, headers=headers)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert answer.json()["error"]["code"] == "invalid_api_key"
            assert server.get("/v1/models", headers=headers).status_code == 401
        for key in ("alpha", "beta"):
            assert server.client(key).models.list().data[0].id == "tiny"
        with pytest.raises(openai.AuthenticationError):
            server.client("gamma").models.list()
        assert server.get("/health").status_code == server.get("/metrics").status_code == 200


def test_keys_are_read_one_a_line(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("alpha\n\n beta \n", encoding="utf-8")
    assert read_keys(path) == ("alpha", "beta")
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="no API key"):
        read_keys(path)
    with pytest.raises(ConfigError, match="no such file"):
        read_keys(tmp_path / "none")


def test_more_requests_than_may_be_at_once_come_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(limits={"max_requests": 1}) as server:
        slowly(server, monkeypatch)
        thread, results = in_background(lambda: server.post("/v1/completions", LONG))
        assert under_way(server)
        assert refused(server)["code"] == "overloaded"
        assert server.get("/v1/models").status_code == 200
        thread.join()
        assert results[0].status_code == server.post("/v1/completions", SHORT).status_code == 200


def test_one_key_leaves_room_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    alpha, beta = ({"Authorization": f"Bearer {key}"} for key in ("alpha", "beta"))
    with running(keys=("alpha", "beta"), limits={"max_requests_per_key": 1}) as server:
        slowly(server, monkeypatch)
        thread, _ = in_background(lambda: server.post("/v1/completions", LONG, headers=alpha))
        assert under_way(server)
        assert "of your requests" in refused(server, alpha)["message"]
        assert server.post("/v1/completions", SHORT, headers=beta).status_code == 200
        thread.join()


def test_where_too_many_answers_wait_for_a_seat_nobody_new_comes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(limits={"max_waiting": 1}, seats=1) as server:
        slowly(server, monkeypatch)
        threads = [in_background(lambda: server.post("/v1/completions", LONG))[0] for _ in range(3)]
        assert under_way(server, 3)
        assert "wait for a seat" in refused(server)["message"]
        for thread in threads:
            thread.join()


def test_a_caller_has_so_many_requests_a_minute() -> None:
    with running(limits={"requests_per_minute": 3}) as server:
        codes = [server.post("/v1/completions", SHORT).status_code for _ in range(3)]
        assert codes == [200] * 3
        assert refused(server)["code"] == "rate_limit_exceeded"
        with pytest.raises(openai.RateLimitError):
            server.client().completions.create(model="tiny", prompt="a", max_tokens=1)


def test_a_rate_fills_up_evenly_and_forgets_who_went() -> None:
    now = [0.0]
    rate = Rate(6, clock=lambda: now[0])
    assert [rate.wait_s("a") for _ in range(7)] == [0.0] * 6 + [10.0]
    assert rate.wait_s("b") == 0
    now[0] = 10.0
    assert [rate.wait_s("a"), rate.wait_s("a")] == [0.0, 10.0]
    now[0] = 75.0
    assert rate.wait_s("c") == 0
    assert set(rate._buckets) == {"a", "c"} or set(rate._buckets) == {"c"}
    assert [rate.wait_s("a") for _ in range(7)] == [0.0] * 6 + [10.0]


def test_a_request_that_is_too_long_is_not_read_to_its_end() -> None:
    with running(limits={"max_body_bytes": 1000}) as server:
        answer = server.post("/v1/completions", {"prompt": "a" * 1000})
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
        parts = HTTP.post(f"{server.url}/v1/completions", content=(b"a" * 300 for _ in range(10)))
        assert parts.status_code == 413
        assert server.post("/v1/completions", SHORT).status_code == 200


def test_more_answers_than_one_request_may_have_are_refused() -> None:
    with running(limits={"max_answers": 4}) as server:
        assert server.post("/v1/completions", {**SHORT, "n": 4}).status_code == 200
        for more in ({"n": 5}, {"prompt": ["a", "b"], "n": 3}, {"best_of": 5}):
            error = server.post("/v1/completions", SHORT | more).json()["error"]
            assert "answers to one request; this server gives 4" in error["message"]
        assert server.post("/v1/embeddings", {"input": ["a"] * 5}).status_code == 400


def test_more_logprobs_than_the_limit_are_refused() -> None:
    with running(limits={"max_logprobs": 2}) as server:
        assert server.post("/v1/completions", {**SHORT, "logprobs": 2}).status_code == 200
        assert server.post("/v1/completions", {**SHORT, "logprobs": 3}).json()["error"]["param"] == "logprobs"


@pytest.mark.parametrize("origin", ["https://example.org", "https://elsewhere.org"])
def test_pages_of_named_sites_only_may_ask(origin: str) -> None:
    with running(origins=("https://example.org",), keys=("alpha",)) as server:
        headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        asked = HTTP.options(f"{server.url}/v1/completions", headers=headers)
        allowed = origin == "https://example.org"
        assert asked.status_code == (200 if allowed else 400)
        answer = server.post("/v1/completions", SHORT, headers={"Origin": origin})
        assert answer.headers.get("access-control-allow-origin") == (origin if allowed else None)
