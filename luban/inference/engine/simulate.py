"""Loads that this machine could never carry, played through in seconds by the engine's own scheduler.

Time jumps from step to step, each as long as a measured profile says it takes; pages are counted by the real
pool; only the model is missing. What comes out is how long requests wait and take under each policy.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from luban.inference.engine.job import Job
from luban.inference.engine.pages import PagePool
from luban.inference.engine.profile import Profile
from luban.inference.engine.scheduler import Counts, Policy, Scheduler

SHORT = 32
"""Answers of at most so many tokens count as short."""


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """One request of a load: when it comes, how long its prompt and its answer are, what was said of the latter."""

    at: float
    prompt: int
    answer: int
    expected: int = 0
    """Tokens that the request's `max_tokens` suggests; 0 tells the policy the truth."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the load meets."""

    profile: Profile = field(default_factory=Profile)
    pages: int = 512
    page_size: int = 16
    host_pages: int = 0
    spare_pages: int = 0
    seats: int = 16
    chunk_tokens: int = 256


@dataclass(frozen=True)
class Outcome:
    """One request's fate, in seconds after its arrival."""

    arrival: Arrival
    first: float
    """Until the first token (TTFT)."""
    whole: float
    """Until the last one (JCT)."""


@dataclass(frozen=True)
class Played:
    """What became of a load."""

    outcomes: list[Outcome]
    counts: Counts
    seconds: float
    """Of the model's time, from the first arrival to the last token."""

    def short(self) -> list[Outcome]:
        """Requests with a short answer."""
        return [outcome for outcome in self.outcomes if outcome.arrival.answer <= SHORT]

    def figures(self, machine: Machine) -> dict[str, float]:
        """Completion times (`jct`), times to first token (`ttft`) in seconds, and what blocking adds to short ones.

        `short_blocked` is how many times longer than alone short requests take, in the median.
        """
        whole = [outcome.whole for outcome in self.outcomes]
        first = [outcome.first for outcome in self.outcomes]
        short = self.short()
        slowed = [outcome.whole / alone(outcome.arrival, machine) for outcome in short]
        return {
            "jct_mean": sum(whole) / len(whole),
            "jct_p95": percentile(whole, 95),
            "ttft_mean": sum(first) / len(first),
            "ttft_p99": percentile(first, 99),
            "short_jct_p95": percentile([outcome.whole for outcome in short], 95),
            "short_blocked": percentile(slowed, 50),
            "steps": float(self.counts.steps),
            "swapped_pages": float(self.counts.swapped_out),
            "recomputed_tokens": float(self.counts.recomputed),
        }


def play(arrivals: Iterable[Arrival], policy: Policy, machine: Machine) -> Played:
    """Let `machine` serve the load under `policy`, to the last token."""
    pool = PagePool(pages=machine.pages, page_size=machine.page_size)
    scheduler = Scheduler(
        policy,
        pool,
        seats=machine.seats,
        chunk_tokens=machine.chunk_tokens,
        host_pages=machine.host_pages,
        spare_pages=machine.spare_pages,
    )
    waiting = sorted(arrivals, key=lambda arrival: arrival.at, reverse=True)
    started = now = waiting[-1].at
    first: dict[Job, float] = {}
    outcomes: list[Outcome] = []
    asked: dict[Job, Arrival] = {}
    while waiting or asked:
        now = now if asked else max(now, waiting[-1].at)
        while waiting and waiting[-1].at <= now:
            _come(waiting.pop(), scheduler, asked)
        plan = scheduler.plan(now)
        now += machine.profile.step([(new, job.computed) for job, new in plan.work], plan.moved)
        scheduler.done(plan, now)
        for job in [job for job, _ in plan.work if not job.pending]:
            job.known += 1
            first.setdefault(job, now)
            if job.answered == asked[job].answer:
                scheduler.remove(job)
                arrival = asked.pop(job)
                outcomes.append(Outcome(arrival, first.pop(job) - arrival.at, now - arrival.at))
    pool.check([])
    return Played(outcomes, scheduler.counts, now - started)


def alone(arrival: Arrival, machine: Machine) -> float:
    """Seconds that the request takes if there is no other."""
    profile, seconds, before = machine.profile, 0.0, 0
    while before < arrival.prompt:
        new = min(machine.chunk_tokens, arrival.prompt - before)
        seconds += profile.step([(new, before)])
        before += new
    return seconds + sum(profile.step([(1, before + place)]) for place in range(arrival.answer - 1))


def poisson(
    count: int, rate: float, draw: Callable[[random.Random], tuple[int, int]], *, seed: int
) -> list[Arrival]:
    """`count` requests, `rate` a second on average, at independent moments; `draw` gives prompt and answer lengths."""
    return _arrivals(count, draw, seed, gap=lambda chance: chance.expovariate(rate))


def bursts(
    count: int, rate: float, draw: Callable[[random.Random], tuple[int, int]], *, seed: int, size: int = 10
) -> list[Arrival]:
    """The same on average, but coming `size` at a time on average (geometrically spread)."""

    def gap(chance: random.Random) -> float:
        return chance.expovariate(rate / size) if chance.random() < 1 / size else 0.0

    return _arrivals(count, draw, seed, gap=gap)


def mixed_lengths(chance: random.Random) -> tuple[int, int]:
    """Prompt and answer of a mixed load: most short, some very long, as logs of public chats have them.

    Log-normal, with medians of 64 and 48 tokens and cut off at 512.
    """
    prompt, answer = chance.lognormvariate(4.16, 0.8), chance.lognormvariate(3.87, 1.1)
    return max(1, min(512, round(prompt))), max(1, min(512, round(answer)))


def rate_for(utilisation: float, arrivals: Sequence[Arrival], machine: Machine, *, together: float) -> float:
    """Requests a second that keep `machine` busy for that share of the time, with `together` answers in a step."""
    profile = machine.profile
    seconds = 0.0
    for arrival in arrivals:
        middle = arrival.prompt + arrival.answer // 2
        seconds += profile.own(arrival.prompt, 0) + arrival.answer * (
            profile.own(1, middle) + profile.base / together
        )
    return utilisation * len(arrivals) / seconds


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of a hundred do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else float("nan")


def _come(arrival: Arrival, scheduler: Scheduler, asked: dict[Job, Arrival]) -> None:
    job = Job(
        id=str(len(asked)),
        arrived=arrival.at,
        prompt=arrival.prompt,
        budget=arrival.answer,
        expected=arrival.expected,
    )
    asked[job] = arrival
    scheduler.add(job, arrival.at)


def _arrivals(
    count: int,
    draw: Callable[[random.Random], tuple[int, int]],
    seed: int,
    *,
    gap: Callable[[random.Random], float],
) -> list[Arrival]:
    """Gaps and lengths come from streams of their own: two rates have the same requests."""
    gaps, lengths = random.Random(seed), random.Random(seed + 1)
    made, at = [], 0.0
    for _ in range(count):
        at += gap(gaps)
        prompt, answer = draw(lengths)
        made.append(Arrival(at=at, prompt=prompt, answer=answer))
    return made
