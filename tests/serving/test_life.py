"""A request from its coming to its end: hang-ups, timeouts, a server that stops, what is told of it all."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from luban.cli import main
from luban.serving.server import listen
from tests.conftest import Workspace
from tests.serving.running import HTTP, Running, running, wait_for
from tests.serving.test_gate import LONG, SHORT, in_background, slowly, under_way


def hang_up_after(server: Running, body: dict[str, Any], *, read: int) -> None:
    """Send a request, read so many bytes of the answer (0: none, once it is under way), and close the socket."""
    content = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    port = int(server.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head + content)
        if read:
            connection.recv(read)
        else:
            assert under_way(server)


@pytest.mark.parametrize("stream", [False, True])
def test_who_hangs_up_frees_the_pages_at_once(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with running() as server:
        slowly(server, monkeypatch, 0.05)
        body = {**LONG, "prompt": ["a", "b"], "n": 2, "stream": stream}
        hang_up_after(server, body, read=400 if stream else 0)
        assert server.settled()
        stats = server.served.engine.stats()
        assert (stats.aborted, stats.finished) == (2, 0)
        assert stats.drawn_tokens < 60  # of 120
        assert not server.server._state.inside


def test_a_reader_who_leaves_by_the_official_client_stops_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with running() as server:
        slowly(server, monkeypatch)
        stream = server.client().completions.create(model="tiny", prompt="a", max_tokens=30, stream=True)
        next(iter(stream))
        stream.close()
        assert server.settled()
        assert server.served.engine.stats().aborted == 1


def test_a_request_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(limits={"timeout_s": 0.3}) as server:
        slowly(server, monkeypatch, 0.05)
        answer = server.post("/v1/completions", LONG)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
        *_, last, nothing = server.post("/v1/completions", {**LONG, "stream": True}).text.split("\n\n")
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "timeout"
        assert nothing == ""
        assert server.settled()


def test_a_request_that_does_not_come_in_whole_is_ended() -> None:
    def slow_parts() -> Iterator[bytes]:
        yield b'{"prompt":'
        time.sleep(1)
        yield b' "a"}'

    with running(limits={"body_timeout_s": 0.2}) as server:
        answer = HTTP.post(f"{server.url}/v1/completions", content=slow_parts())
        assert answer.status_code == 408


def test_a_server_that_stops_finishes_what_it_began_and_lets_nobody_in(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(drain_s=20) as server:
        slowly(server, monkeypatch)
        thread, results = in_background(lambda: server.post("/v1/completions", {**LONG, "stream": True}))
        assert under_way(server)
        server.server.handle_exit(signal.SIGTERM, None)
        late = server.post("/v1/completions", SHORT)
        assert (late.status_code, late.json()["error"]["code"]) == (503, "stopping")
        assert "retry-after" in late.headers
        health = server.get("/health")
        assert (health.status_code, health.json()) == (503, {"status": "stopping"})
        thread.join()
        assert results[0].text.endswith("data: [DONE]\n\n")
        assert wait_for(lambda: server.served.engine.stopped)
        assert "stopping: 1 requests on their way" in capsys.readouterr().err


def test_what_is_not_finished_when_the_time_is_over_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(drain_s=0.2) as server:
        slowly(server, monkeypatch, 0.1)
        thread, results = in_background(lambda: server.post("/v1/completions", LONG))
        streaming, streamed = in_background(lambda: server.post("/v1/completions", {**LONG, "stream": True}))
        assert under_way(server, 2)
        server.server.handle_exit(signal.SIGTERM, None)
        thread.join()
        streaming.join()
        assert results[0].status_code == 503
        assert "engine_stopped" in results[0].text
        assert "engine_stopped" in streamed[0].text
        assert "[DONE]" not in streamed[0].text


def test_a_line_of_the_log_tells_of_a_request_and_not_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    with running(log=True, keys=("secret-key",)) as server:
        headers = {"Authorization": "Bearer secret-key"}
        answer = server.post("/v1/completions", {"prompt": "my secret", "max_tokens": 3}, headers=headers)
        server.post("/v1/completions", {"prompt": "my secret"})
    said = capsys.readouterr().err
    first, second = (json.loads(line) for line in said.splitlines() if line.startswith("{"))
    assert (first["status"], second["status"]) == (200, 401)
    assert first["request"] == answer.headers["x-request-id"]
    assert first["completion_tokens"] == 3
    assert 0 < first["first_token_s"] <= first["seconds"]
    assert {"time", "client", "method", "path"} <= set(first)
    assert "secret" not in said


def test_the_numbers_count_requests_tokens_and_pages() -> None:
    with running() as server:
        server.post("/v1/completions", {"prompt": "The quick", "max_tokens": 5, "ignore_eos": True})
        server.post("/v1/completions", {"prompt": 3})
        server.get("/v1/some/made-up/path")
        text = server.get("/metrics").text
    numbers = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    read = len(server.served.prompts("The quick")[0])
    for name, value in {
        'luban_requests_total{path="/v1/completions",status="200"}': 1,
        'luban_requests_total{path="/v1/completions",status="400"}': 1,
        'luban_requests_total{path="other",status="404"}': 1,
        'luban_tokens_total{kind="prompt"}': read,
        'luban_tokens_total{kind="completion"}': 5,
        "luban_engine_pages": 256,
        "luban_engine_used_pages": 0,
        "luban_engine_finished_total": 1,
        "luban_first_token_seconds_count": 1,
        "luban_token_seconds_count": 1,
    }.items():
        assert float(numbers[name]) == value, name


def command(workspace: Workspace, *words: str) -> subprocess.Popen[str]:
    """`luban serve` as a process of its own, on a free port."""
    base = [sys.executable, "-m", "luban", "serve", "--model", str(workspace.model), "--port", "0"]
    return subprocess.Popen(
        [*base, "--threads", "1", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def address(process: subprocess.Popen[str]) -> str:
    """Where the process says that it listens."""
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("serving "):
            return line.split(" at ")[1].split("/v1")[0]
    raise AssertionError(f"it ended with {process.wait()}")


@pytest.mark.slow
def test_the_command_serves_until_sigterm_and_tells_what_it_did(workspace: Workspace, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("alpha\n", encoding="utf-8")
    words = ["--api-keys", str(keys), "--name", "mine", "--json", "engine.seats=2", "limits.max_logprobs=3"]
    process = command(workspace, *words)
    url = address(process)
    headers = {"Authorization": "Bearer alpha"}
    assert httpx.get(f"{url}/v1/models", headers=headers).json()["data"][0]["id"] == "mine"
    body = {"prompt": "In the", "max_tokens": 200, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=body, headers=headers) as answer:
        pieces = answer.iter_lines()
        next(pieces)
        process.send_signal(signal.SIGTERM)
        *_, last = [line for line in pieces if line]
    assert last == "data: [DONE]"
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(out) == {"model": "mine", "finished": 1, "aborted": 0, "drawn_tokens": 200}


@pytest.mark.slow
def test_a_kill_in_the_middle_of_a_stream_leaves_nothing_behind(workspace: Workspace, tmp_path: Path) -> None:
    before = sorted(workspace.model.parent.rglob("*"))
    process = command(workspace, "--access-log", "false")
    url = address(process)
    port = int(url.rpartition(":")[2])
    body = {"prompt": "In the", "max_tokens": 250, "ignore_eos": True, "stream": True, "n": 4}
    with httpx.stream("POST", f"{url}/v1/completions", json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        process.kill()
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            list(lines)
    process.communicate(timeout=60)
    assert sorted(workspace.model.parent.rglob("*")) == before
    assert not list(tmp_path.iterdir())
    listen("127.0.0.1", port).close()  # the port is free at once


def test_a_port_that_is_taken_and_a_model_that_is_none_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with listen("127.0.0.1", 0) as taken:
        words = ["serve", "--model", str(tmp_path), "--port"]
        assert main([*words, str(taken.getsockname()[1])]) == 2
        assert "cannot listen: Address already in use" in capsys.readouterr().err
    assert main([*words, "0"]) == 2
    assert "not a model folder" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_server_listens_where_it_is_told(host: str) -> None:
    with listen(host, 0) as listener, socket.create_connection(listener.getsockname()[:2]) as connection:
        assert connection.getpeername()[0] == host


def test_without_the_extra_the_command_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "luban.serving.server", None)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", "--model", str(tmp_path)]) == 2
    assert "pip install 'luban[serve]'" in capsys.readouterr().err
