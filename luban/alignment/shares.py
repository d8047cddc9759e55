"""The work of an iteration dealt out to the processes of a run, and put together again.

Each process answers, scores and reads its share; then all of them know all of it. So whatever is computed of an
iteration as a whole (moments, whitening, the price of the KL, an early stop, the log) is computed alike everywhere,
and is what one process would compute.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from luban.alignment.experience import Experience, joined
from luban.training.parallel.world import World

Thing = TypeVar("Thing")


def share(count: int, world: World) -> range:
    """Which of `count` things are this process's: as many as another's, or one more; the shares follow each other."""
    place = world.place("dp")
    return range(count * place // world.dp, count * (place + 1) // world.dp)


def read_by_all(
    things: Sequence[Thing], read: Callable[[Sequence[Thing]], tuple[Experience, Tensor]], world: World
) -> tuple[Experience, Tensor]:
    """What `read` says of `things`, each process having read its share of them; at least one, each."""
    mine = share(len(things), world)
    experience, entropies = read(things[mine.start : mine.stop])
    if world.size == 1:
        return experience, entropies
    device = entropies.device
    told = world.everyones([(experience.to("cpu"), entropies.cpu())])
    whole = joined([part for part, _ in told]).to(device)
    return whole, pad_sequence([row for _, part in told for row in part], batch_first=True).to(device)


def passes(batch: Experience, *, rows: int, world: World) -> list[Experience]:
    """This process's share of `batch`, `rows` at a time, in as many passes as any process needs.

    All processes meet in each pass, so one that has no more rows takes part with a row that has no action.
    """
    mine = range(len(batch))[world.place("dp") :: world.dp]
    most = -(-len(batch) // world.dp)
    parts = [mine[at : at + rows] for at in range(0, most, rows)]
    return [batch.select(part) if part else _idle(batch) for part in parts]


def _idle(batch: Experience) -> Experience:
    """A row to compute with that adds nothing to any sum."""
    row = batch.select([0])
    return dataclasses.replace(row, there=torch.zeros_like(row.there)).select([0])
