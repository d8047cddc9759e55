"""When each stage of a pipeline works and when it waits: schedules stated as orders of passes, and played by a clock.

A schedule is little more than one number: how many forward passes a process runs ahead of its first backward one.
None is the naive pipeline, all is GPipe, just enough to fill the pipeline is 1F1B. `order` states what a process
runs, `play` says when each pass can start, so waiting and memory can be read off without a device. `luban plan`
asks for `bubble`; a run on real processes (`pipeline.py`) logs its own beside it. No torch here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from luban.errors import ConfigError

Schedule = Literal["naive", "gpipe", "1f1b", "interleaved"]


class Pass(NamedTuple):
    """A micro-batch going forward or backward through one stage."""

    stage: int
    """From 0 to `processes * chunks - 1`; process r has stages r, r + processes, ..."""
    micro_batch: int
    backward: bool


class Slot(NamedTuple):
    """A pass with its time."""

    process: int
    job: Pass
    start: float
    end: float


def order(
    schedule: Schedule, process: int, *, processes: int, micro_batches: int, chunks: int = 1
) -> list[Pass]:
    """What one process runs, first to last. Every process runs each micro-batch through each of its stages.

    Raises ConfigError where an interleaved pipeline has no whole number of groups of micro-batches.

    Source: GPipe, Huang et al. 2019 (arXiv:1811.06965); 1F1B, Narayanan et al. 2019 (arXiv:1806.03377); interleaved,
    Narayanan et al. 2021, section 2.2 (arXiv:2104.04473), for any group size as PyTorch has it.
    """
    group, chunks = micro_batches, chunks if schedule == "interleaved" else 1
    behind = processes - 1 - process
    ahead = {"naive": 0, "gpipe": micro_batches, "1f1b": behind}.get(schedule, 0)
    if schedule == "interleaved":
        group = group_size(processes, micro_batches)
        ahead = (chunks - 1) * group + 2 * behind
    visits = [
        (chunk, first + number)
        for first in range(0, micro_batches, group)
        for chunk in range(chunks)
        for number in range(group)
    ]
    forward = [Pass(chunk * processes + process, number, False) for chunk, number in visits]
    backward = [Pass((chunks - 1 - chunk) * processes + process, number, True) for chunk, number in visits]
    return _woven(forward, backward, min(ahead, len(forward)))


def group_size(processes: int, micro_batches: int) -> int:
    """How many micro-batches an interleaved pipeline takes through a chunk before it turns to the next chunk.

    Raises ConfigError where they do not divide into such groups.
    """
    groups = max(1, micro_batches // processes)
    if micro_batches % groups:
        fewer, more = micro_batches - micro_batches % groups, groups * (micro_batches // groups + 1)
        raise ConfigError(
            f"{micro_batches} micro-batches do not divide into {groups} equal groups for {processes} processes",
            where="schedule 'interleaved'",
            hint=f"{fewer} or {more} micro-batches, or a multiple of {processes}",
        )
    return micro_batches // groups


def _woven(forward: Sequence[Pass], backward: Sequence[Pass], ahead: int) -> list[Pass]:
    """`ahead` forward passes, then one forward and one backward in turn, then the backward passes left over."""
    steady = [job for pair in zip(forward[ahead:], backward, strict=False) for job in pair]
    return [*forward[:ahead], *steady, *backward[len(forward) - ahead :]]


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """One step of a pipeline, in units of the time one micro-batch takes through one process."""

    processes: int
    chunks: int
    ideal: float
    """What each process would need if it never waited."""
    slots: tuple[Slot, ...]

    @property
    def total(self) -> float:
        """When the last pass ends."""
        return max(slot.end for slot in self.slots)

    @property
    def bubble(self) -> float:
        """Time spent waiting over time spent working."""
        return self.total / self.ideal - 1

    def live(self, process: int) -> float:
        """The most micro-batches whose activations `process` holds at once; one of its chunks counts as a part."""
        held = most = 0
        for slot in sorted(
            (slot for slot in self.slots if slot.process == process), key=lambda slot: slot.start
        ):
            held += -1 if slot.job.backward else 1
            most = max(most, held)
        return most / self.chunks

    def picture(self) -> str:
        """A line per process: `a b c` forward passes of micro-batches, `A B C` backward ones, `.` waiting."""
        cell = min(slot.end - slot.start for slot in self.slots)
        width = round(self.total / cell)
        lines = []
        for process in range(self.processes):
            cells = ["."] * width
            for slot in (slot for slot in self.slots if slot.process == process):
                begin, end = round(slot.start / cell), round(slot.end / cell)
                cells[begin:end] = [_letter(slot.job)] * (end - begin)
            lines.append(f"{process:>3}  {''.join(cells)}")
        return "\n".join(lines)


def _letter(job: Pass) -> str:
    return chr(ord("A" if job.backward else "a") + job.micro_batch % 26)


def play(
    schedule: Schedule,
    *,
    processes: int,
    micro_batches: int,
    chunks: int = 1,
    forward: float = 1.0,
    backward: float = 2.0,
) -> Timeline:
    """The timeline of one step in which every pass starts as soon as it can and sending costs nothing.

    `forward` and `backward` are the times of one micro-batch through all of a process's chunks.
    """
    chunks = chunks if schedule == "interleaved" else 1
    stages = processes * chunks
    waiting = [
        order(schedule, process, processes=processes, micro_batches=micro_batches, chunks=chunks)
        for process in range(processes)
    ]
    ends: dict[Pass, float] = {}
    free, slots = [0.0] * processes, list[Slot]()
    while any(waiting):
        ready = [
            process for process, jobs in enumerate(waiting) if jobs and _can_start(jobs[0], ends, stages)
        ]
        assert ready, f"{schedule} of {processes} x {micro_batches} waits for itself"
        for process in ready:
            job = waiting[process].pop(0)
            start = max(free[process], ends.get(_before(job, stages), 0.0))
            free[process] = ends[job] = start + (backward if job.backward else forward) / chunks
            slots.append(Slot(process, job, start, ends[job]))
    ideal = micro_batches * (forward + backward)
    return Timeline(processes=processes, chunks=chunks, ideal=ideal, slots=tuple(slots))


def _before(job: Pass, stages: int) -> Pass:
    """The pass whose result `job` takes; a first forward pass, which takes none, gives one of stage -1."""
    if not job.backward:
        return Pass(job.stage - 1, job.micro_batch, False)
    last = job.stage == stages - 1
    return Pass(job.stage, job.micro_batch, False) if last else Pass(job.stage + 1, job.micro_batch, True)


def _can_start(job: Pass, ends: dict[Pass, float], stages: int) -> bool:
    before = _before(job, stages)
    return before.stage < 0 or before in ends


def bubble(schedule: Schedule, stages: int, micro_batches: int, chunks: int = 1) -> float:
    """Time a process waits over time it works, for `stages` processes (with `chunks` each if interleaved).

    (stages - 1) / micro_batches for GPipe and 1F1B, `chunks` times less interleaved, `stages - 1` for the naive
    pipeline, whatever the times of forward and backward passes. Played where groups are not as large as stages.
    """
    if schedule == "naive":
        return float(stages - 1)
    if schedule != "interleaved":
        return (stages - 1) / micro_batches
    if group_size(stages, micro_batches) == stages:
        return (stages - 1) / (micro_batches * chunks)
    return play(schedule, processes=stages, micro_batches=micro_batches, chunks=chunks).bubble
