"""The same tasks give the same results in this process, on a pool and on Ray; a dead worker is an error, not a hang."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from luban.data.document import RecordError
from luban.data.factory.engine import Engine, run_tasks
from luban.errors import MachineError

ENGINES = [("pool", 1), ("pool", 2), pytest.param("ray", 2, marks=pytest.mark.slow)]
pytestmark = pytest.mark.usefixtures("ray_ends")


def square(number: int) -> int:
    return number * number


def kill_itself(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def refuse(number: int) -> int:
    raise RecordError("no good", reason="bad", where=f"part {number}")


@pytest.mark.parametrize(
    ("engine", "workers"), [("pool", 1), ("pool", 2), pytest.param("ray", 2, marks=pytest.mark.slow)]
)
def test_every_engine_does_every_task_once(engine: Engine, workers: int) -> None:
    assert sorted(run_tasks(square, range(20), engine=engine, workers=workers)) == [n * n for n in range(20)]


@pytest.mark.parametrize(
    ("engine", "workers"), [("pool", 1), ("pool", 2), pytest.param("ray", 2, marks=pytest.mark.slow)]
)
def test_the_users_error_comes_out_of_the_worker_as_it_is(engine: Engine, workers: int) -> None:
    with pytest.raises(RecordError, match=r"part \d+: no good"):
        list(run_tasks(refuse, range(4), engine=engine, workers=workers))


def test_a_killed_worker_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(MachineError, match=r"worker process was killed(.|\n)*smaller --memory"):
        list(run_tasks(kill_itself, range(8), engine="pool", workers=2))


def sleep(_number: int) -> None:
    time.sleep(60)


def test_workers_end_with_a_parent_that_was_killed() -> None:
    code = "from tests.data.factory.test_engine import *; list(run_tasks(sleep, range(4), engine='pool', workers=2))"
    parent = subprocess.Popen([sys.executable, "-c", code])
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    workers: list[str] = []
    while len(workers) < 2:
        time.sleep(0.05)
        workers = children.read_text().split()
    time.sleep(0.2)  # until they have said how they want to end
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow  # Ray is imported
def test_an_address_where_no_cluster_answers_is_an_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(MachineError, match=f"RAY_ADDRESS={address}: no Ray cluster answers"):
        list(run_tasks(square, range(4), engine="ray", workers=2))
