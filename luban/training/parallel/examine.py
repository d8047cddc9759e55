"""Whether every collective brings the right numbers on every rank, and how fast; told over another way.

The ranks report to the first one through the store that started them, not through the collectives under
examination, so that one that hangs or fails can still be named.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from luban.errors import LubanError, MachineError
from luban.training.parallel.exchanges import Collective, Exchange, Place

SMALLEST, GROWTH = 1024, 4
"""Bytes of the first size after the one that shows latency (a number per rank), and the step to the next."""
PATIENCE = 10
"""A size is left out if one exchange of it would take more than so many times `measure_s`."""
FEWEST, MOST = 3, 1000
"""Exchanges that one time is the mean of."""
REFUSALS = ("not support", "unsupported", "not implemented", "not been implemented")
"""Words by which a backend says that it does not have a collective."""
RIGHT, REFUSED, STOP = "right", "not by this backend", "stop"

Answer = dict[str, Any]
"""A rank's `seconds`, or what was `wrong`, `failed` or `refused`."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How to examine: sizes up to `largest_bytes`, each for about `measure_s`, by ranks that answer in `timeout_s`."""

    largest_bytes: int
    measure_s: float
    timeout_s: float

    def sizes(self) -> list[int]:
        """Bytes, smallest first; 0 stands for one number per rank."""
        found, size = [0], SMALLEST
        while size <= self.largest_bytes:
            found.append(size)
            size *= GROWTH
        return found


class RollCall:
    """Questions that every rank answers and the first one decides, over the store."""

    def __init__(self, store: dist.Store, place: Place, *, timeout_s: float) -> None:
        self.store, self.place, self.timeout_s = store, place, timeout_s
        self.asked = 0

    def agree(self, mine: Answer, judge: Callable[[list[Answer | None]], Any]) -> Any:
        """What `judge` makes of all ranks' answers, on the first rank, is returned on all; STOP where it raises.

        The answer of a rank that has not come after twice `timeout_s` is None: an exchange that it blocks fails
        on the others after `timeout_s`, and they are to be heard first.
        """
        self.asked += 1
        self._say(str(self.place.rank), mine)
        if self.place.rank:
            decision = self._hear("decision", 4 * self.timeout_s)
            return STOP if decision is None else decision
        until = time.monotonic() + 2 * self.timeout_s
        answers = [self._hear(str(rank), until - time.monotonic()) for rank in range(self.place.size)]
        try:
            decision = judge(answers)
        except LubanError:
            self._say("decision", STOP)
            raise
        self._say("decision", decision)
        return decision

    def _say(self, name: str, value: Any) -> None:
        self.store.set(f"{self.asked}/{name}", json.dumps(value))

    def _hear(self, name: str, timeout_s: float) -> Any:
        """What was said, or None if it is not in time, or the store is gone with the rank that keeps it."""
        try:
            self.store.wait([f"{self.asked}/{name}"], timedelta(seconds=max(0.05, timeout_s)))
            return json.loads(self.store.get(f"{self.asked}/{name}"))
        except dist.DistError:
            return None


def examine(
    place: Place, roll: RollCall, terms: Terms, *, backend: str, collectives: Sequence[Collective]
) -> Iterator[dict[str, Any]]:
    """A row per collective and size, as they are measured; on every rank the same ones.

    A row has `collective`, `backend`, `bytes`, `status`, and where that is "right" also `seconds` (of one exchange,
    on the slowest rank), `bandwidth` and `bus_bandwidth` in bytes per second. Raises MachineError on the first rank,
    naming collective and ranks, if a number is wrong, a rank fails, or one does not answer; the others just end.

    Source of sizes and bandwidths: nccl-tests, doc/PERFORMANCE.md.
    """
    for collective in collectives:
        seconds = 0.0
        for size in terms.sizes():
            exchange = collective.ready(place, size // 4)
            row = {"collective": collective.name, "backend": backend, "bytes": exchange.bytes}
            if seconds * GROWTH > PATIENCE * terms.measure_s:
                yield {**row, "status": f"left out: the size before took {seconds:.1f} s"}
                continue
            where = f"{collective.name} over {backend}, {exchange.bytes:,} bytes"
            found = _timed(place, roll, terms, exchange, where=where)
            if found == STOP:
                return
            if found == REFUSED:
                yield {**row, "status": REFUSED}
                break
            seconds = found
            speed = exchange.bytes / seconds
            rates = {"bandwidth": speed, "bus_bandwidth": speed * collective.bus(place.size)}
            yield {**row, "status": RIGHT, "seconds": seconds, **rates}


def _timed(place: Place, roll: RollCall, terms: Terms, exchange: Exchange, *, where: str) -> Any:
    """Seconds of one exchange after its numbers were found right, or REFUSED or STOP."""
    judge = partial(_judged, where=where, timeout_s=terms.timeout_s)
    first = roll.agree(_tried(place, exchange, times=1, compared=True), judge)
    if first in (REFUSED, STOP):
        return first
    times = min(MOST, max(FEWEST, int(terms.measure_s / first)))
    return roll.agree(_tried(place, exchange, times=times), judge)


def _tried(place: Place, exchange: Exchange, *, times: int, compared: bool = False) -> Answer:
    """This rank's answer after so many exchanges."""
    begun = time.perf_counter()
    try:
        for _ in range(times):
            exchange.call()
        if place.device.type != "cpu":
            torch.accelerator.synchronize()
    except RuntimeError as error:  # that of any backend, for any reason: it is told with its text
        told = str(error).strip().splitlines()[0]
        how = "refused" if any(word in told.lower() for word in REFUSALS) else "failed"
        return {how: told, "after_s": time.perf_counter() - begun}
    seconds = max(1e-9, (time.perf_counter() - begun) / times)
    fault = exchange.fault() if compared else None
    return {"wrong": fault} if fault else {"seconds": seconds}


def _judged(answers: list[Answer | None], *, where: str, timeout_s: float) -> float | str:
    """The slowest rank's seconds, or REFUSED if the backend does not have this; raises MachineError else."""
    silent = [rank for rank, answer in enumerate(answers) if answer is None]
    waited = [rank for rank, answer in enumerate(answers) if answer is not None]
    if silent:
        told = f"{_ranks(silent)} did not answer in {timeout_s:g} s; {_ranks(waited)} waited in vain"
        raise MachineError(told, where=where, hint="look at what that process and its network do")
    heard = [answer for answer in answers if answer is not None]
    if all("refused" in answer for answer in heard):
        return REFUSED
    for rank, answer in enumerate(heard):
        if "wrong" in answer:
            raise MachineError(f"rank {rank} got wrong numbers {answer['wrong']}", where=where)
    failed = [(answer["after_s"], rank, answer) for rank, answer in enumerate(heard) if "after_s" in answer]
    if failed:  # the first to fail is likely the cause, and the others waited for it
        told = (
            f"rank {rank} failed after {after:.1f} s: {_told(answer)}"
            for after, rank, answer in sorted(failed, key=lambda one: one[:2])
        )
        raise MachineError("; ".join(told), where=where)
    return max(answer["seconds"] for answer in heard)


def _told(answer: Answer) -> str:
    return answer.get("failed") or answer["refused"]


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"
