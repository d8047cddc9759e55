"""Stage `dist check`: whether the processes of a cluster reach each other, bring the right numbers, and how fast.

torchrun --nnodes 2 --nproc-per-node 8 ... -m luban dist check     the cluster, as a training run would see it
luban dist check --processes 4                                     four processes of this machine
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt

from luban.errors import ConfigError, LubanError, MachineError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    import torch.distributed as dist

    from luban.training.parallel.exchanges import Collective, Place

LATE_S = 60
"""Seconds that processes started here may take to import torch before they count as missing."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Check and time what processes tell each other."""

    processes: Annotated[int, Ge(0)] = 0
    """Start so many processes on this machine; 0 means those that torchrun has started."""
    backends: tuple[Literal["gloo", "nccl", "mpi"], ...] = ()
    """What carries the messages; none means all that work here."""
    largest_mb: Annotated[float, Gt(0)] = 64.0
    """Largest message, in MiB; the smaller ones are 1 kB and its multiples by 4."""
    measure_s: Annotated[float, Gt(0)] = 0.1
    """Seconds for which each size is exchanged again and again; a size that would take 10 times that is left out."""
    timeout_s: Annotated[float, Gt(0)] = 30.0
    """A process that does not answer in this time is told of as missing."""


def run(config: Config) -> dict[str, Any]:
    """The number of processes, a row per backend, collective and size, and backends that do not work here.

    Raises MachineError that names collective and ranks where a number is wrong or a process does not answer.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started > 1 and config.processes:
        what = f"torchrun has started {started} processes already"
        raise ConfigError(what, where="setting 'processes'", hint="leave it out")
    if max(started, config.processes) < 2:
        hint = "--processes 2, or torchrun --nproc-per-node 2 -m luban dist check"
        raise ConfigError("one process has nobody to talk to", where="luban dist check", hint=hint)
    return checked(config) if started > 1 else _started_here(config)


def show(results: dict[str, Any]) -> None:
    """A table per backend: latency, then bus bandwidth by size."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for backend in dict.fromkeys(row["backend"] for row in results["rows"]):
        rows = [row for row in results["rows"] if row["backend"] == backend]
        title = f"{backend}, {results['processes']} processes: all numbers right; bus bandwidth in MB/s"
        console.print(title, highlight=False)
        table = Table(padding=(0, 0, 0, 1))
        for heading in ("", "latency", *map(_size, _steps(rows))):
            table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
        for name in dict.fromkeys(row["collective"] for row in rows):
            table.add_row(name, *_cells([row for row in rows if row["collective"] == name]))
        console.print(table)
    for row in results["rows"]:
        if row["status"] != "right":
            told = f"{row['collective']} over {row['backend']}, {_size(row['bytes'])}: {row['status']}"
            console.print(told, highlight=False)
    for name, why in results["absent"].items():
        console.print(f"not checked: {name}, {why}", highlight=False)


def checked(config: Config, collectives: Sequence[Collective] | None = None) -> dict[str, Any]:
    """What `run` returns, in one of the processes that torchrun's environment describes."""
    import torch

    from luban.training.parallel.examine import RollCall, Terms, examine
    from luban.training.parallel.exchanges import COLLECTIVES

    torch.set_num_threads(1)  # what is timed here is not arithmetic
    terms = Terms(
        largest_bytes=int(config.largest_mb * 2**20), measure_s=config.measure_s, timeout_s=config.timeout_s
    )
    rows: list[dict[str, Any]] = []
    absent = _absent()
    for name in config.backends:
        if name in absent:
            raise MachineError(f"no backend '{name}' here: {absent[name]}", where="setting 'backends'")
    chosen = config.backends or tuple(name for name in ("gloo", "nccl", "mpi") if name not in absent)
    with _joined(config) as store:
        for backend in chosen:
            place = _place(backend, config.timeout_s)
            roll = RollCall(_apart(store, f"roll/{backend}"), place, timeout_s=config.timeout_s)
            found = examine(place, roll, terms, backend=backend, collectives=collectives or COLLECTIVES)
            rows += _announced(found, main=place.rank == 0)
    return {"processes": int(os.environ["WORLD_SIZE"]), "rows": rows, "absent": absent}


def _announced(rows: Iterator[dict[str, Any]], *, main: bool) -> Iterator[dict[str, Any]]:
    """The same rows; each collective is named on stderr when its last size is done."""
    name = None
    for row in rows:
        if main and name not in (None, row["collective"]):
            print(f"dist check: {name} over {row['backend']} done", file=sys.stderr, flush=True)
        name = row["collective"]
        yield row


def _absent() -> dict[str, str]:
    """The backends that do not work here, and why."""
    import torch
    import torch.distributed as dist

    found = {}
    local = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    if not dist.is_nccl_available():
        found["nccl"] = "this torch is built without it"
    elif torch.cuda.device_count() < local:
        found["nccl"] = f"{torch.cuda.device_count()} GPUs for {local} processes"
    if not dist.is_mpi_available():
        found["mpi"] = "this torch is built without it"
    return found


@contextmanager
def _joined(config: Config) -> Iterator[dist.Store]:
    """The store all processes share; raises MachineError if they do not all come."""
    import torch.distributed as dist

    os.environ["TORCH_NCCL_BLOCKING_WAIT"] = (
        "1"  # a timeout is an error to tell of, not the end of the process
    )
    timeout = timedelta(seconds=config.timeout_s + (LATE_S if config.processes else 0))
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=timeout))
        dist.init_process_group(
            "gloo", store=_apart(store, "all"), rank=rank, world_size=size, timeout=timeout
        )
    except dist.DistError as error:
        told = str(error).strip().splitlines()[0]
        hint = "are MASTER_ADDR and MASTER_PORT the same and open everywhere?"
        raise MachineError(f"not all processes came: {told}", where="luban dist check", hint=hint) from None
    try:
        yield store
    finally:
        dist.destroy_process_group()


def _apart(store: dist.Store, name: str) -> dist.Store:
    """The store under names of its own."""
    import torch.distributed as dist

    return dist.PrefixStore(f"luban/{name}", store)


def _place(backend: str, timeout_s: float) -> Place:
    import torch
    import torch.distributed as dist

    from luban.training.parallel.exchanges import Place

    group: Any = dist.new_group(backend=backend, timeout=timedelta(seconds=timeout_s))
    device = (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if backend == "nccl"
        else torch.device("cpu")
    )
    return Place(rank=dist.get_rank(), size=dist.get_world_size(), group=group, device=device)


def _started_here(config: Config) -> dict[str, Any]:
    """What the first of `config.processes` new processes finds; all are ended when it has spoken."""
    context = multiprocessing.get_context("spawn")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ours, theirs = context.Pipe(duplex=False)
    ranks = [
        context.Process(target=_rank, args=(theirs, rank, port, config), daemon=True)
        for rank in range(config.processes)
    ]
    for process in ranks:
        process.start()
    theirs.close()
    try:
        told = ours.recv()
    except EOFError:
        raise MachineError(
            "the processes ended before they said anything", where="luban dist check"
        ) from None
    finally:
        for process in ranks:
            process.join(timeout=0.5)
            process.kill()
    if isinstance(told, str):
        raise MachineError(told)
    return told


def _rank(end: Connection, rank: int, port: int, config: Config) -> None:
    """One of the processes started here; the first one sends the results, or the error's text."""
    told = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": config.processes,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    os.environ.update({name: str(value) for name, value in told.items()})
    try:
        found: Any = checked(config)
    except LubanError as error:
        found = str(error)
    if rank == 0:
        end.send(found)
    end.close()


def _steps(rows: list[dict[str, Any]]) -> list[int]:
    """The sizes of the collective that has most of them, without the one for latency."""
    longest = max(
        (
            [row["bytes"] for row in rows if row["collective"] == name]
            for name in {row["collective"] for row in rows}
        ),
        key=len,
    )
    return longest[1:]


def _size(count: int) -> str:
    for unit, size in (("MB", 2**20), ("kB", 2**10)):
        if count >= size:
            return f"{count / size:.0f} {unit}"
    return f"{count} B"


def _cells(rows: list[dict[str, Any]]) -> list[str]:
    """A collective's cells: its latency, then its bandwidths, or why there is none."""
    cells = []
    for place, row in enumerate(rows):
        if "seconds" not in row:
            cells.append("-" if place else row["status"])
        elif place == 0:
            cells.append(f"{row['seconds'] * 1e6:,.0f} µs")
        else:
            speed = row["bus_bandwidth"] / 1e6
            cells.append(f"{speed:,.0f}" if speed >= 10 else f"{speed:.1f}")
    return cells
