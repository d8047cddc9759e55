"""Which process this is among those that train one model, and the few things they tell each other.

`torchrun` starts the processes and says each its rank; without it there is one, and everything here costs nothing.
They stand in a mesh of pp x dp x tp: neighbours in rank share a layer (tp, the most traffic), then come the copies
of the model (dp), then the stages of the pipeline (pp, the least).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import _get_default_store

from luban.errors import ConfigError, LubanError, MachineError
from luban.training.config import ParallelConfig

Axis = Literal["pp", "dp", "tp"]
Thing = TypeVar("Thing")


@dataclass(frozen=True, kw_only=True)
class World:
    """This process's place in the mesh; `mesh` is None where it is alone."""

    rank: int = 0
    size: int = 1
    pp: int = 1
    dp: int = 1
    tp: int = 1
    mesh: DeviceMesh | None = None

    @property
    def main(self) -> bool:
        """Whether this process speaks for all: the log, the bar and single files are its."""
        return self.rank == 0

    def place(self, axis: Axis) -> int:
        """This process's number along `axis`, from 0."""
        return 0 if self.mesh is None else self.mesh.get_local_rank(axis)

    def group(self, axis: Axis) -> dist.ProcessGroup | None:
        """The processes that differ from this one along `axis` only; None where it is alone."""
        return None if self.mesh is None else self.mesh.get_group(axis)

    def total(self, *values: float, axis: Axis = "dp") -> list[float]:
        """Each value summed over `axis`, in float64, so that counts of tokens stay exact."""
        group = self.group(axis)
        if group is None or dist.get_world_size(group) == 1:
            return list(values)
        told = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(told, group=group)
        return told.tolist()

    def most(self, value: int) -> int:
        """The largest of all processes' `value`: what they agree on, a wish to stop for example."""
        if self.mesh is None:
            return value
        told = torch.tensor([value])
        dist.all_reduce(told, op=dist.ReduceOp.MAX)
        return int(told)

    def heard(self, text: str) -> str:
        """The main process's `text`, whatever the others bring."""
        if self.mesh is None:
            return text
        told = [text]
        dist.broadcast_object_list(told)
        return told[0]

    def everyones(self, things: list[Thing]) -> list[Thing]:
        """The `things` of all copies of the model, in their order; what can be pickled, on the CPU."""
        group = self.group("dp")
        if group is None:
            return things
        told: list[list[Thing]] = [[] for _ in range(dist.get_world_size(group))]
        dist.all_gather_object(told, things, group=group)
        return [thing for each in told for thing in each]

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.mesh is not None:
            dist.barrier()


ALONE = World()


@contextmanager
def joined(config: ParallelConfig, device: torch.device) -> Iterator[World]:
    """The world that torchrun's environment tells of, left again at the end; one process without torchrun.

    A mistake that all processes meet, or one, is raised by the first to meet it; the others end with exit code 2
    and say nothing. Raises ConfigError where dp x tp x pp is not the number of processes, MachineError where
    another process is gone.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    try:
        dp = _copies(config, size)
    except ConfigError:
        if rank:
            raise SystemExit(2) from None  # all processes meet it; the first one tells
        raise
    if size == 1:
        yield ALONE
        return
    if device.type != "cpu":
        torch.accelerator.set_device_index(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("gloo" if device.type == "cpu" else None, rank=rank, world_size=size)
    try:
        mesh = init_device_mesh(device.type, (config.pp, dp, config.tp), mesh_dim_names=("pp", "dp", "tp"))
        yield World(rank=rank, size=size, pp=config.pp, dp=dp, tp=config.tp, mesh=mesh)
    except LubanError as error:
        raise error if _first_to_tell() else SystemExit(2) from None
    except RuntimeError as error:
        if not _lost_another(error):
            raise
        if not _first_to_tell():
            raise SystemExit(2) from None
        hint = "the same command goes on from the last checkpoint"
        raise MachineError("another process of this run has ended", where=f"rank {rank}", hint=hint) from None
    finally:
        dist.destroy_process_group()


def _first_to_tell() -> bool:
    """Whether no other process has told of a mistake yet; one that cannot ask leaves the word to the others."""
    try:
        return _get_default_store().add("luban/told", 1) == 1
    except RuntimeError:  # the process that keeps the store is gone, and so has told or was killed
        return False


def _lost_another(error: RuntimeError) -> bool:
    """Whether a collective failed because a process that should take part is not there."""
    return isinstance(error, dist.DistError) or "gloo" in str(error) or "onnection" in str(error)


def _copies(config: ParallelConfig, size: int) -> int:
    """How many copies of the model `size` processes make."""
    told = config.dp or max(1, size // (config.tp * config.pp))
    if told * config.tp * config.pp != size:
        asked = f"dp {told} x tp {config.tp} x pp {config.pp} = {told * config.tp * config.pp} processes"
        hint = f"torchrun --nproc-per-node {told * config.tp * config.pp} -m luban ..."
        raise ConfigError(f"{asked}, and there are {size}", where="setting 'parallel'", hint=hint)
    return told
