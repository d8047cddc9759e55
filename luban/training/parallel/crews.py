"""Where the shards and workers of a parameter server live: in this process with a made-up clock, or on Ray."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from luban.data.factory.engine import ray_started
from luban.errors import MachineError
from luban.training.parallel.scheduler import Turn
from luban.training.parallel.server import Pulled, Rules, Shard, Worker


class Embedded:
    """A crew in this process. Turns last `seconds` of a made-up clock, so that each run meets the same staleness."""

    def __init__(self, shards: Sequence[Shard], workers: Sequence[Worker], seconds: Sequence[float]) -> None:
        self.shards, self.staff, self.seconds = shards, workers, seconds
        self.now = 0.0
        self.going: list[tuple[float, int, Turn]] = []

    @property
    def workers(self) -> int:
        """See `Crew.workers`."""
        return len(self.staff)

    def start(self, worker: int) -> None:
        """See `Crew.start`; computed at once, on what the shards hold now, and told when its time has come."""
        pulled = self.pull()
        turn = Turn(worker, [part.version for part in pulled], self.staff[worker].differentiate(pulled))
        heapq.heappush(self.going, (self.now + self.seconds[worker], worker, turn))

    def finished(self) -> Turn:
        """See `Crew.finished`; of two that end at once, the worker with the smaller number."""
        self.now, _, turn = heapq.heappop(self.going)
        return turn

    def push(self, turn: Turn, scale: float) -> int:
        """See `Crew.push`."""
        return max(map(Shard.push, self.shards, self.staff[turn.worker].gradients(scale), turn.versions))

    def keep(self, turn: Turn) -> None:
        """See `Crew.keep`."""
        for shard, part in zip(self.shards, self.staff[turn.worker].gradients(), strict=True):
            shard.keep(turn.worker, part)

    def norm(self) -> float:
        """See `Crew.norm`."""
        return sum(shard.square() for shard in self.shards) ** 0.5

    def apply(self, scale: float) -> None:
        """See `Crew.apply`."""
        for shard in self.shards:
            shard.apply(scale)

    def pull(self) -> list[Pulled]:
        """See `Crew.pull`."""
        return [shard.pull() for shard in self.shards]


class Station:
    """A worker as an actor of Ray: it talks to the shards itself, and only numbers go to the scheduler."""

    def __init__(
        self, make: Callable[[], Worker], number: int, shards: Sequence[Any], delay_s: float
    ) -> None:
        import ray
        import torch

        torch.set_num_threads(1)
        self.ray, self.worker, self.number = ray, make(), number
        self.shards, self.delay_s = shards, delay_s

    def turn(self) -> Turn:
        """Pull, compute, and dawdle for `delay_s`."""
        pulled = self.ray.get([shard.pull.remote() for shard in self.shards])
        found = self.worker.differentiate(pulled)
        time.sleep(self.delay_s)
        return Turn(self.number, [version for version, _ in pulled], found)

    def push(self, scale: float, versions: Sequence[int]) -> int:
        """See `Crew.push`."""
        told = zip(self.shards, self.worker.gradients(scale), versions, strict=True)
        return max(self.ray.get([shard.push.remote(part, version) for shard, part, version in told]))

    def keep(self) -> None:
        """See `Crew.keep`."""
        told = zip(self.shards, self.worker.gradients(), strict=True)
        self.ray.get([shard.keep.remote(self.number, part) for shard, part in told])


class OnRay:
    """A crew of Ray actors, on this machine or on the cluster that RAY_ADDRESS names."""

    def __init__(
        self,
        parts: Sequence[Sequence[Tensor]],
        rules: Rules,
        workers: Sequence[Callable[[], Worker]],
        delays_s: Sequence[float],
    ) -> None:
        """One shard for each of `parts`; workers are made where they are to live, and dawdle for `delays_s` a turn.

        Raises MachineError where Ray is not installed, or has too few CPUs and would wait for more for ever.
        """
        self.ray = ray_started(len(workers))
        have = int(self.ray.cluster_resources().get("CPU", 0))
        if have < len(workers):
            what = f"{len(workers)} workers, and Ray has {have} CPUs"
            raise MachineError(what, where="setting 'workers'", hint="fewer workers, or another RAY_ADDRESS")
        shard: Any = self.ray.remote(num_cpus=0)(Shard)
        self.shards = [shard.remote(part, rules) for part in parts]
        station: Any = self.ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(Station)
        self.stations = [
            station.remote(make, number, self.shards, delay_s)
            for number, (make, delay_s) in enumerate(zip(workers, delays_s, strict=True))
        ]
        self.going: list[Any] = []

    @property
    def workers(self) -> int:
        """See `Crew.workers`."""
        return len(self.stations)

    def start(self, worker: int) -> None:
        """See `Crew.start`."""
        self.going.append(self.stations[worker].turn.remote())

    def finished(self) -> Turn:
        """See `Crew.finished`."""
        (first, *_), self.going = self.ray.wait(self.going)
        return self._of(first)

    def push(self, turn: Turn, scale: float) -> int:
        """See `Crew.push`."""
        return self._of(self.stations[turn.worker].push.remote(scale, turn.versions))

    def keep(self, turn: Turn) -> None:
        """See `Crew.keep`."""
        self._of(self.stations[turn.worker].keep.remote())

    def norm(self) -> float:
        """See `Crew.norm`."""
        return sum(self._of([shard.square.remote() for shard in self.shards])) ** 0.5

    def apply(self, scale: float) -> None:
        """See `Crew.apply`."""
        self._of([shard.apply.remote(scale) for shard in self.shards])

    def pull(self) -> list[Pulled]:
        """See `Crew.pull`."""
        return self._of([shard.pull.remote() for shard in self.shards])

    def close(self) -> None:
        """End the actors; what shards hold is gone then."""
        for actor in (*self.stations, *self.shards):
            self.ray.kill(actor)

    def _of(self, asked: Any) -> Any:
        """The answer; raises MachineError if the process that should give it has ended."""
        try:
            return self.ray.get(asked)
        except self.ray.exceptions.RayActorError:
            what = "a worker or a server of the parameter server has ended"
            raise MachineError(what, hint="look for the cause (memory?) and run it again") from None
