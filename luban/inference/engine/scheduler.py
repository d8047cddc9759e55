"""Which answers the next step works on: a policy says who goes first, this makes room for them.

Every step is planned anew, so a job can be set aside between any two tokens. In the policy's order, jobs get a
seat each and the pages for their next tokens; where pages are missing, the least urgent job that holds some
gives them up, to the host's memory while that has room, and otherwise to be computed again. The scheduler
knows no tensors: the engine carries its plans out, the simulator only counts their cost.

Source: iteration-level batching, Yu et al. 2022 (Orca); chunked prefill, Agrawal et al. 2023 (arXiv:2308.16369);
swapping ahead of need, Wu et al. 2023, section 4.3 (arXiv:2305.05920).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from luban.inference.engine.job import GONE, Job
from luban.inference.engine.pages import PagePool


class Policy(Protocol):
    """Who goes first. `now` is in seconds on the caller's clock."""

    def add(self, job: Job, now: float) -> None:
        """A job has come."""
        ...

    def remove(self, job: Job) -> None:
        """A job is finished or was aborted."""
        ...

    def order(self, now: float) -> Sequence[Job]:
        """All jobs, the most urgent first."""
        ...

    def served(self, job: Job, new: int, now: float) -> None:
        """A step has computed `new` tokens of `job`; called before they are counted."""
        ...


@dataclass
class Plan:
    """One step, to be carried out in this order: pages go `out`, `copies`, pages come `back`, the work."""

    work: list[tuple[Job, int]] = field(default_factory=list)
    """Each job with how many of its pending tokens go through the model."""
    out: list[tuple[Job, list[int]]] = field(default_factory=list)
    """Jobs whose keys go to the host, from these pages."""
    copies: list[tuple[int, int]] = field(default_factory=list)
    """Pages (from, to) to copy, as the job that writes next is not the only holder."""
    back: list[tuple[Job, list[int]]] = field(default_factory=list)
    """Jobs whose keys come back, into these pages."""

    def works_on(self, job: Job) -> bool:
        return any(job is other for other, _ in self.work)

    @property
    def moved(self) -> int:
        """Pages that cross between pool and host."""
        return sum(len(pages) for _, pages in self.out) + sum(len(pages) for _, pages in self.back)


@dataclass
class Counts:
    """What happened so far."""

    steps: int = 0
    swapped_out: int = 0
    swapped_in: int = 0
    recomputed: int = 0
    """Tokens whose keys were dropped and must be computed again."""


class Scheduler:
    """Jobs, their pages and a policy; `plan`, do the work, then tell `done`."""

    def __init__(
        self,
        policy: Policy,
        pool: PagePool,
        *,
        seats: int,
        chunk_tokens: int,
        host_pages: int = 0,
        spare_pages: int = 0,
        window: int = 0,
        share: bool = True,
    ) -> None:
        """`seats`: answers in a step. `chunk_tokens`: prompt tokens in a step. `spare_pages`: kept free by swapping
        ahead of need. `window`: pages wholly behind it are given back (0: none is). `share`: find equal beginnings."""
        self.policy, self.pool = policy, pool
        self.seats, self.chunk_tokens = seats, chunk_tokens
        self.host_pages, self.host_free, self.spare_pages = host_pages, host_pages, spare_pages
        self.window, self.share = window, share
        self.jobs: dict[Job, None] = {}
        self.counts = Counts()

    def add(self, job: Job, now: float) -> None:
        """Schedule `job` from now on; it may already hold pages, as the copy of another does."""
        self.jobs[job] = None
        self.policy.add(job, now)

    def remove(self, job: Job) -> None:
        """Take back all that `job` holds, at once."""
        self.policy.remove(job)
        del self.jobs[job]
        self._give_up(job)
        self.host_free += job.on_host
        job.on_host = 0

    def copy(self, job: Job, copied: Job) -> None:
        """Let `copied`, not yet added, hold what `job` has computed."""
        self.pool.hold(job.pages)
        copied.pages, copied.computed, copied.gone = list(job.pages), job.computed, job.gone
        copied.keys, copied.published = list(job.keys), job.published

    def plan(self, now: float) -> Plan:
        """The next step; without work exactly if there is no job."""
        plan, order = Plan(), self.policy.order(now)
        holders = [job for job in order if job.holds]  # whose pages may be taken, from the end
        left, closed = self.chunk_tokens, False
        for job in order:
            outside = not job.holds
            if len(plan.work) == self.seats:
                break
            if (closed and outside) or (job.pending > 1 and left == 0):
                continue
            if self._make_room(job, left, plan, holders):
                new = min(job.pending, max(left, 1))
                left -= new if job.pending > 1 else 0
                self._grow(job, new, plan)
                plan.work.append((job, new))
            elif outside:
                closed = True  # none comes in any more; who holds pages may still go on
            else:
                break
        self._keep_spare(plan, holders)
        self.counts.steps += bool(plan.work)
        assert plan.work or not self.jobs, "jobs wait and none could be given room"
        return plan

    def done(self, plan: Plan, now: float) -> None:
        """The plan's work is in the pages: count it, publish full pages, give back those behind the window."""
        for job, new in plan.work:
            self.policy.served(job, new, now)
            job.computed += new
            if self.share and job.tokens:
                self._publish(job)
            self._leave_behind(job)

    def _make_room(self, job: Job, left: int, plan: Plan, holders: list[Job]) -> bool:
        """See to it that the pages for the job's next tokens are free, taking from the less urgent.

        Keys are dropped only for one that holds pages and must grow: what comes in may swap, with the room on the
        host that it leaves itself, but must not undo what is on its way.
        """
        outside = not job.holds
        new = outside and not job.on_host
        if new:
            self._begin(job)
        # The host keeps room for half a pool from those who are new, so that those at work can grow by swapping.
        kept_room = self.pool.pages // 2 if new else 0
        while self.pool.free < self._lacking(job, left, plan, outside=outside):
            victim = holders[-1] if holders else job
            room = self.host_free + job.on_host
            if victim is job or plan.works_on(victim) or (outside and victim.holds > room - kept_room):
                if new:
                    self._give_up(job)
                return False
            self._evict(holders.pop(), plan, room=room)
        if new:
            self.pool.asked_tokens += job.known
            self.pool.hit_tokens += job.computed
        return True

    def _lacking(self, job: Job, left: int, plan: Plan, *, outside: bool) -> int:
        """Pages the job must take for its next tokens.

        One from outside also leaves a page to each job at work, or their next tokens would throw it out again.
        """
        whole = self.pool.needed(job.computed + min(job.pending, max(left, 1)))
        lacking = whole - job.gone if job.on_host else whole - len(job.pages) + self._must_copy(job)
        return lacking + len(plan.work) if outside else lacking

    def _must_copy(self, job: Job) -> bool:
        """Whether the next token goes into a page that others hold too."""
        partly = job.computed % self.pool.page_size > 0
        return partly and bool(job.pages) and self.pool.holders[job.pages[-1]] > 1

    def _grow(self, job: Job, new: int, plan: Plan) -> None:
        """Give `job` the pages for `new` more tokens."""
        if job.on_host:
            pages = self.pool.take(job.on_host)
            plan.back.append((job, pages))
            job.pages = [GONE] * job.gone + pages
            self.counts.swapped_in += job.on_host
            self.host_free += job.on_host
            job.on_host = 0
        elif self._must_copy(job):
            (own,) = self.pool.take(1)
            plan.copies.append((job.pages[-1], own))
            self.pool.release(job.pages[-1:])
            job.pages[-1] = own
        job.pages += self.pool.take(self.pool.needed(job.computed + new) - len(job.pages))

    def _begin(self, job: Job) -> None:
        """Take over what the pool has of a job that holds nothing; its last token is always computed."""
        if self.share and job.tokens and not job.unread:
            whole = (job.known - 1) // self.pool.page_size
            found = self.pool.find(job.hash_pages(self.pool.page_size)[:whole])
            self.pool.hold(found)
            job.pages, job.computed, job.published = found, len(found) * self.pool.page_size, len(found)
            self._leave_behind(job)

    def _publish(self, job: Job) -> None:
        """Tell others of the pages that have become full."""
        full = job.computed // self.pool.page_size
        keys = job.hash_pages(self.pool.page_size) if full > job.published else []
        for place in range(job.published, full):
            self.pool.publish(job.pages[place], keys[place])
        job.published = full

    def _leave_behind(self, job: Job) -> None:
        """Give back the pages that no later token looks at."""
        if not self.window:
            return
        unseen = max(0, job.computed - self.window + 1) // self.pool.page_size
        self.pool.release(job.pages[job.gone : unseen])
        job.pages[job.gone : unseen] = [GONE] * max(0, unseen - job.gone)
        job.gone = max(job.gone, unseen)

    def _keep_spare(self, plan: Plan, holders: list[Job]) -> None:
        """Swap out, ahead of need, what is not at work: whoever comes next then does not wait for it."""
        while self.pool.free < self.spare_pages and holders:
            victim = holders.pop()
            if plan.works_on(victim) or victim.holds > self.host_free:
                return
            self._evict(victim, plan, room=self.host_free)

    def _evict(self, job: Job, plan: Plan, *, room: int) -> None:
        """Set `job` aside without pages: its keys go to the host if it has `room` for them, else they are dropped."""
        pages = job.pages[job.gone :]
        if job.computed and len(pages) <= room:
            plan.out.append((job, pages))
            self.host_free -= len(pages)
            job.on_host = len(pages)
            self.counts.swapped_out += len(pages)
            self.pool.release(pages)
            job.pages = []
        else:
            self.counts.recomputed += job.computed
            self._give_up(job)

    def _give_up(self, job: Job) -> None:
        self.pool.release(job.pages)
        job.pages, job.computed, job.gone, job.published = [], 0, 0, 0
