"""Where the tasks of a stage run: in this process, on a pool of processes, or on Ray; the results are the same."""

from __future__ import annotations

import ctypes
import functools
import gc
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Literal, TypeVar

from luban.errors import MachineError

Task = TypeVar("Task")
Result = TypeVar("Result")
Engine = Literal["pool", "ray"]
TOLD_EVERY_S = 5
ANSWER_S = 10
PR_SET_PDEATHSIG = 1
"""Of Linux's prctl(2): the signal that a process gets when its parent ends."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's mallopt(3): free memory from which on some goes back to the system, sizes from which on it is asked."""
KEPT_BYTES, LARGEST_BYTES = 1 << 28, 1 << 25


def workers_here(asked: int) -> int:
    """`asked` processes, or with 0 one per core this process may use."""
    return asked or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else [0])


def run_tasks(
    function: Callable[[Task], Result], tasks: Sequence[Task], *, engine: Engine, workers: int
) -> Iterator[Result]:
    """`function` of each task, as they finish; a task's own error ends the run and is raised here.

    Raises MachineError if a worker process dies (killed for memory, crashed) or Ray is not installed.
    """
    if engine == "ray":
        yield from _on_ray(function, tasks, workers)
    elif workers == 1 or len(tasks) <= 1:
        yield from map(function, tasks)
    else:
        yield from _on_pool(function, tasks, workers)


def finish_tasks(
    function: Callable[[Task], Any], tasks: Sequence[Task], *, engine: Engine, workers: int, label: str
) -> None:
    """Run all tasks for what they leave on disk, with a line of progress on stderr every few seconds."""
    begun = told = time.monotonic()
    for count, _ in enumerate(run_tasks(function, tasks, engine=engine, workers=workers), 1):
        now = time.monotonic()
        if now - told >= TOLD_EVERY_S and count < len(tasks):
            told = now
            left = (now - begun) / count * (len(tasks) - count)
            print(
                f"{label}: part {count} of {len(tasks)}, about {left:.0f} s left", file=sys.stderr, flush=True
            )


def _on_pool(function: Callable[[Task], Result], tasks: Sequence[Task], workers: int) -> Iterator[Result]:
    # A fork starts in milliseconds, but must not copy a process in which torch's threads run.
    method = "fork" if sys.platform == "linux" and "torch" not in sys.modules else "spawn"
    futures: dict[Future[Result], Task] = {}
    try:
        futures = {_pool(workers, method).submit(function, task): task for task in tasks}
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool:
        _pool.cache_clear()
        waiting = [task for future, task in futures.items() if not future.done() or future.exception()]
        raise MachineError(
            f"a worker process was killed while {len(waiting)} of {len(tasks)} parts were still to do",
            hint="run it again: finished parts are kept; a smaller --memory or --workers 1 needs less memory",
        ) from None
    finally:
        for future in futures:
            future.cancel()
        wait(futures)


@functools.cache
def _pool(workers: int, method: str) -> ProcessPoolExecutor:
    """One pool for all stages of a run: a spawned worker imports for a second before its first task."""
    context = multiprocessing.get_context(method)
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker)


def _begin_worker() -> None:
    """Ctrl-C is the parent's to handle; and a worker whose parent is killed would wait for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    _settle_down()


def _on_ray(function: Callable[[Task], Result], tasks: Sequence[Task], workers: int) -> Iterator[Result]:
    ray = ray_started(workers)
    remote: Any = ray.remote(_work)
    waiting = [remote.remote(function, task) for task in tasks]
    while waiting:
        done, waiting = ray.wait(waiting)
        yield from ray.get(done)


def _work(function: Callable[[Task], Result], task: Task) -> Result:
    """A task, in a worker of Ray's."""
    _settle_down()
    return function(task)


@functools.cache
def _settle_down() -> None:
    """Spare a worker work that it would do for every batch, once.

    The garbage collector leaves out what is imported (Ray brings as many objects as Luban). And glibc keeps the memory
    of one batch for the next, where it would give it back and have it cleared page by page again.
    """
    gc.freeze()
    if "CS_GNU_LIBC_VERSION" in os.confstr_names:
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, LARGEST_BYTES)
        library.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def ray_started(workers: int) -> Any:
    """Ray, once for all stages of a run: the cluster that RAY_ADDRESS names, else a local one with `workers` processes.

    Raises MachineError where it is not installed, or nothing answers at that address.
    """
    try:
        import ray
    except ModuleNotFoundError:
        raise MachineError("engine 'ray' needs an extra", hint="pip install 'luban[scale]'") from None
    if ray.is_initialized():  # it ends with the process
        return ray
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address := os.environ.get("RAY_ADDRESS"):
        _knock(address)
        try:
            ray.init(**quiet)
        except ConnectionError as error:
            hint = "`ray status` there; if the cluster asks for tokens, RAY_AUTH_MODE=token"
            raise MachineError(str(error), where=f"RAY_ADDRESS={address}", hint=hint) from None
    else:
        ray.init(num_cpus=workers, include_dashboard=False, **quiet)
    return ray


def _knock(address: str) -> None:
    """Raise MachineError at once where nothing listens: Ray itself would try for two minutes and not say where."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():  # "auto", "local"
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
    except OSError as error:
        what = f"no Ray cluster answers: {error.strerror or error}"
        hint = "`ray start --head` on that machine, or unset RAY_ADDRESS for a cluster of this run's own"
        raise MachineError(what, where=f"RAY_ADDRESS={address}", hint=hint) from None
