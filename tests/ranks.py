"""Tests of several processes on this machine: one small world per call, its ranks' results back, errors whole.

A server process imports torch once and forks each rank from there, so a world of two starts in a moment.
Run many checks inside one world: starting it is the dear part.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "torch",
        "torch.distributed",
        "torch._dynamo",
        "matplotlib.pyplot",
        "luban.training.loop",
        "luban.training.pretrain",
        "luban.inference.local",
        "luban.training.parallel.states",
        "luban.training.parallel.sharded",
        "tests.tiny",
    ]
)
LIMIT_S = 240


def run_ranks(size: int, task: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `task(*arguments)` returns on each of `size` ranks, started as torchrun starts them (its environment).

    `task` is a function of a test module; it opens its world with `joined`, once: a second world's ranks could meet
    the first one's store, which listens at the same port. The first rank that fails, fails all.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ends, ranks = [], []
    for rank in range(size):
        ours, theirs = _CONTEXT.Pipe(duplex=False)
        process = _CONTEXT.Process(
            target=_rank, args=(theirs, rank, size, port, task, arguments), daemon=True
        )
        process.start()
        theirs.close()
        ends.append(ours)
        ranks.append(process)
    try:
        return _results(ends)
    finally:
        for process in ranks:
            process.join(timeout=5)
            process.kill()


def exit_code(task: Callable[..., Any], *arguments: Any) -> int | None:
    """How a process of its own ended that ran `task(*arguments)`: 0, or minus the signal that killed it."""
    process = _CONTEXT.Process(target=task, args=arguments)
    process.start()
    process.join(timeout=LIMIT_S)
    return process.exitcode


def _rank(
    end: Connection, rank: int, size: int, port: int, task: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    import torch

    torch.set_num_threads(1)
    told = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": size,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    os.environ.update({name: str(value) for name, value in told.items()})
    try:
        end.send((True, task(*arguments)))
    except Exception:  # noqa: BLE001 - whatever it was, the parent is to hear of it
        end.send((False, traceback.format_exc()))


def _results(ends: list[Connection]) -> list[Any]:
    """What each rank sent, heard in the order in which they speak, as one that failed leaves the others waiting."""
    told: dict[int, Any] = {}
    while waiting := [rank for rank in range(len(ends)) if rank not in told]:
        assert wait([ends[rank] for rank in waiting], LIMIT_S), (
            f"ranks {waiting} said nothing for {LIMIT_S} s"
        )
        for rank in waiting:
            if ends[rank].poll():
                fine, told[rank] = ends[rank].recv()
                assert fine, f"rank {rank} failed:\n{told[rank]}"
    return [told[rank] for rank in range(len(ends))]
