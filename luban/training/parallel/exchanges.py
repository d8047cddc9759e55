"""The nine ways in which processes exchange tensors, each with numbers whose outcome is known beforehand.

`examine.py` calls them, compares what arrived and takes the time. Sizes and bandwidths are meant as in NVIDIA's
nccl-tests (PERFORMANCE.md): bus bandwidth is what the slowest link carried, alike for any number of processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Int32
from torch import Tensor

ROOT = 0
"""The rank that broadcasts and scatters, and that reduce and gather bring everything to."""
MODULUS = 65521
"""Elements are whole numbers below this prime, so that int32 sums over 32,000 processes are exact."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A process among those that exchange."""

    rank: int
    size: int
    group: dist.ProcessGroup | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A collective made ready on one rank: how to start it, and what it must bring."""

    call: Callable[[], Any]
    bytes: int
    received: list[Tensor]
    expected: list[Tensor]
    senders: list[str]
    """For each tensor received: the rank it is from, or `all ranks` where it is a sum."""

    def fault(self) -> str | None:
        """Who sent what is wrong, and the first wrong element; None if all is as it must be."""
        for got, due, sender in zip(self.received, self.expected, self.senders, strict=True):
            wrong = (got != due).nonzero()
            if len(wrong):
                at = int(wrong[0])
                return f"from {sender}: element {at} of {len(due)} is {got[at]}, not {due[at]}"
        return None


@dataclass(frozen=True)
class Collective:
    """Its name, how to make it ready for about so many elements, and the bus's share of the bytes."""

    name: str
    ready: Callable[[Place, int], Exchange]
    bus: Callable[[int], float]


def message(place: Place, count: int, *, sender: int, receiver: int = 0) -> Int32[Tensor, " count"]:
    """What `sender` tells `receiver`: numbers that differ by both and by their place."""
    numbers = torch.arange(count, dtype=torch.int32, device=place.device)
    return (numbers + 31 * sender + 7919 * receiver) % MODULUS


Arrivals = list[tuple[Tensor, Tensor, str]]
"""A buffer, what must be in it after the exchange, and from whom."""


def _exchange(call: Callable[[], Any], elements: int, arrivals: Arrivals) -> Exchange:
    return Exchange(
        call=call,
        bytes=4 * elements,
        received=[buffer for buffer, _, _ in arrivals],
        expected=[due for _, due, _ in arrivals],
        senders=[sender for _, _, sender in arrivals],
    )


def _broadcast(place: Place, count: int) -> Exchange:
    count = max(1, count)
    due = message(place, count, sender=ROOT)
    buffer = due.clone() if place.rank == ROOT else torch.zeros_like(due)
    return _exchange(
        lambda: dist.broadcast(buffer, ROOT, group=place.group), count, [(buffer, due, f"rank {ROOT}")]
    )


def _scatter(place: Place, count: int) -> Exchange:
    part = max(1, count // place.size)
    parts = [message(place, part, sender=ROOT, receiver=rank) for rank in range(place.size)]
    buffer = torch.zeros(part, dtype=torch.int32, device=place.device)
    given = parts if place.rank == ROOT else None
    return _exchange(
        lambda: dist.scatter(buffer, given, ROOT, group=place.group),
        part * place.size,
        [(buffer, parts[place.rank], f"rank {ROOT}")],
    )


def _sum(place: Place, count: int, receiver: int = 0) -> Tensor:
    return torch.stack(
        [message(place, count, sender=rank, receiver=receiver) for rank in range(place.size)]
    ).sum(dim=0, dtype=torch.int32)


def _reduce(place: Place, count: int) -> Exchange:
    count = max(1, count)
    buffer = message(place, count, sender=place.rank)
    arrivals = [(buffer, _sum(place, count), "all ranks")] if place.rank == ROOT else []
    return _exchange(lambda: dist.reduce(buffer, ROOT, group=place.group), count, arrivals)


def _all_reduce(place: Place, count: int) -> Exchange:
    count = max(1, count)
    buffer = message(place, count, sender=place.rank)
    return _exchange(
        lambda: dist.all_reduce(buffer, group=place.group), count, [(buffer, _sum(place, count), "all ranks")]
    )


def _from_all(place: Place, part: int, *, receiver: int) -> Arrivals:
    return [
        (
            torch.zeros(part, dtype=torch.int32, device=place.device),
            message(place, part, sender=rank, receiver=receiver),
            f"rank {rank}",
        )
        for rank in range(place.size)
    ]


def _gather(place: Place, count: int) -> Exchange:
    part = max(1, count // place.size)
    mine = message(place, part, sender=place.rank, receiver=ROOT)
    arrivals = _from_all(place, part, receiver=ROOT) if place.rank == ROOT else []
    buffers = [buffer for buffer, _, _ in arrivals] or None
    return _exchange(lambda: dist.gather(mine, buffers, ROOT, group=place.group), part * place.size, arrivals)


def _all_gather(place: Place, count: int) -> Exchange:
    part = max(1, count // place.size)
    mine = message(place, part, sender=place.rank)
    arrivals = _from_all(place, part, receiver=0)
    buffers = [buffer for buffer, _, _ in arrivals]
    return _exchange(lambda: dist.all_gather(buffers, mine, group=place.group), part * place.size, arrivals)


def _reduce_scatter(place: Place, count: int) -> Exchange:
    part = max(1, count // place.size)
    parts = [message(place, part, sender=place.rank, receiver=rank) for rank in range(place.size)]
    buffer = torch.zeros(part, dtype=torch.int32, device=place.device)
    return _exchange(
        lambda: dist.reduce_scatter(buffer, parts, group=place.group),
        part * place.size,
        [(buffer, _sum(place, part, receiver=place.rank), "all ranks")],
    )


def _all_to_all(place: Place, count: int) -> Exchange:
    part = max(1, count // place.size)
    given = torch.cat([message(place, part, sender=place.rank, receiver=rank) for rank in range(place.size)])
    buffer = torch.zeros_like(given)
    due = [message(place, part, sender=rank, receiver=place.rank) for rank in range(place.size)]
    arrivals = [(buffer[rank * part :][:part], due[rank], f"rank {rank}") for rank in range(place.size)]
    return _exchange(
        lambda: dist.all_to_all_single(buffer, given, group=place.group), part * place.size, arrivals
    )


def _send_recv(place: Place, count: int) -> Exchange:
    """Every rank to every other one, so that each pair's link is tried."""
    part = max(1, count // (place.size - 1))
    others = [rank for rank in range(place.size) if rank != place.rank]
    given = [message(place, part, sender=place.rank, receiver=rank) for rank in others]
    buffers = [torch.zeros(part, dtype=torch.int32, device=place.device) for _ in others]
    due = [message(place, part, sender=rank, receiver=place.rank) for rank in others]

    def call() -> None:
        operations = [
            dist.P2POp(way, tensor, rank, group=place.group)
            for way, tensors in ((dist.isend, given), (dist.irecv, buffers))
            for tensor, rank in zip(tensors, others, strict=True)
        ]
        for work in dist.batch_isend_irecv(operations):
            work.wait()

    arrivals = list(zip(buffers, due, (f"rank {rank}" for rank in others), strict=True))
    return _exchange(call, part * len(others), arrivals)


def _all_but_own(processes: int) -> float:
    return (processes - 1) / processes


def _whole(_processes: int) -> float:
    return 1.0


COLLECTIVES = (
    Collective("send/recv", _send_recv, _whole),
    Collective("broadcast", _broadcast, _whole),
    Collective("scatter", _scatter, _all_but_own),
    Collective("reduce", _reduce, _whole),
    Collective("all-reduce", _all_reduce, lambda processes: 2 * _all_but_own(processes)),
    Collective("gather", _gather, _all_but_own),
    Collective("all-gather", _all_gather, _all_but_own),
    Collective("reduce-scatter", _reduce_scatter, _all_but_own),
    Collective("all-to-all", _all_to_all, _all_but_own),
)
"""In the order they are tried: point to point first, so that a bad link is met where it can be named."""
