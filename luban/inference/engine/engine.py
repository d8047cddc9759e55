"""The engine: requests come and go at any moment, and every step works on all it has room for.

`submit` requests, call `step` until nothing is left, read the events. One step is: plan, move pages, one pass of
the model over prompt chunks and single tokens side by side, draw a token for every answer that has been read to
its end. What an answer is depends neither on its neighbours nor on how often it was set aside; docs/engine.md
follows one request through.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from luban.errors import PromptError
from luban.inference.engine.config import POLICIES, EngineConfig
from luban.inference.engine.job import Job
from luban.inference.engine.memory import Saved, memory_for, page_bytes
from luban.inference.engine.paged import Row
from luban.inference.engine.pages import PagePool
from luban.inference.engine.profile import Measured
from luban.inference.engine.reading import likeliest
from luban.inference.engine.request import Answer, Asked, Event, Request, begin
from luban.inference.engine.scheduler import Plan, Scheduler
from luban.tokenizers.base import Tokenizer

DEFAULT_STATES = 256
"""Texts that a recurrent model has in memory, where `pages` is 0; their states are small."""
REMEMBERED_STEPS = 4096


@dataclass(frozen=True, kw_only=True)
class Stats:
    """How the engine does, at this moment and so far."""

    requests: int
    """On their way."""
    answers: int
    """On their way, several of one request counted each."""
    finished: int
    """Requests, the aborted ones not among them."""
    aborted: int
    steps: int
    drawn_tokens: int
    pages: int
    used_pages: int
    host_pages: int
    """In use."""
    waste: float
    """The share of held pages' room without a token, on average over steps."""
    hit_rate: float
    """The share of tokens to be read that were found in the pool."""
    swapped_out: int
    """Pages, as the next."""
    swapped_in: int
    recomputed: int
    """Tokens whose keys were dropped for lack of room."""


class Engine:
    """One model and the requests it works on. Not for several threads at once: `async_engine` has one of its own."""

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        config: EngineConfig | None = None,
        *,
        stop_ids: frozenset[int] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`stop_ids` end an answer; None takes the tokenizer's. Raises ModelError for a model it cannot run."""
        self.model, self.tokenizer, self.config = model, tokenizer, config or EngineConfig()
        self.stop_ids = frozenset(tokenizer.stop_ids) if stop_ids is None else stop_ids
        self.clock = clock
        settings = self.config
        pages = settings.pages or _pages_in(model, settings)
        self.memory = memory_for(model, pages=pages, page_size=settings.page_size)
        self.pool = PagePool(pages=pages, page_size=self.memory.page_size)
        self.scheduler = Scheduler(
            POLICIES[settings.policy](settings.profile, settings.seats),
            self.pool,
            seats=settings.seats,
            chunk_tokens=settings.chunk_tokens,
            host_pages=settings.host_pages,
            spare_pages=settings.spare_pages,
            window=self.memory.window,
            share=settings.share and self.memory.shares,
        )
        self.measured: deque[Measured] = deque(maxlen=REMEMBERED_STEPS)
        """The last steps with their time, for `profile.fit`."""
        self._asked: dict[str, Asked] = {}
        self._answers: dict[Job, Answer] = {}
        self._on_host: dict[Job, Saved] = {}
        self._finished = self._aborted = self._drawn = 0
        self._waste = 0.0

    def submit(self, request: Request) -> None:
        """Work on `request` from the next step on.

        Raises PromptError for a prompt that is empty or longer than the window, for a request that needs more
        pages than there are, and for an id that another request on its way has.
        """
        if request.id in self._asked:
            raise PromptError("a request of this id is on its way", where=f"request {request.id}")
        now = self.clock()
        asked = begin(
            request,
            now=now,
            tokenizer=self.tokenizer,
            stop_ids=self.stop_ids,
            context=self.model.config.context,
            vocab=self.model.config.vocab,
        )
        self._check(request, asked)
        self._asked[request.id] = asked
        # Only the first answer reads the prompt; the others begin as its copies.
        first = asked.answers[0]
        self._answers[first.job] = first
        self.scheduler.add(first.job, now)

    def abort(self, id: str) -> bool:  # noqa: A002 - the request's field
        """Forget a request and free its pages at once; False if none of this id is on its way."""
        asked = self._asked.pop(id, None)
        if asked is None:
            return False
        for answer in asked.answers:
            if answer.job in self._answers:
                self._leave(answer)
        self._aborted += 1
        return True

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._asked)

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """One pass of the model; returns what came of it, nothing if there is no request."""
        started = self.clock()
        plan = self.scheduler.plan(started)
        if not plan.work:
            return []
        self._move(plan)
        rows = [
            Row(job.tokens[job.computed : job.computed + new], job.computed, job.pages)
            for job, new in plan.work
        ]
        states = self.memory.forward(self.model, rows)
        ends = list(accumulate(len(row.tokens) for row in rows))
        for (job, _), row, end in zip(plan.work, rows, ends, strict=True):
            if job.unread:
                self._read(job, row, states[end - len(row.tokens) : end])
        self.scheduler.done(plan, started)
        self._waste += self.pool.waste(self.scheduler.jobs)
        ready = [(job, end - 1) for (job, _), end in zip(plan.work, ends, strict=True) if not job.pending]
        events = self._draw_all(ready, states)
        loads = tuple((len(row.tokens), row.before) for row in rows)
        self.measured.append(Measured(loads, self.clock() - started))
        return events

    def stats(self) -> Stats:
        """How it does."""
        counts, scheduler = self.scheduler.counts, self.scheduler
        return Stats(
            requests=len(self._asked),
            answers=len(self._answers),
            finished=self._finished,
            aborted=self._aborted,
            steps=counts.steps,
            drawn_tokens=self._drawn,
            pages=self.pool.pages,
            used_pages=self.pool.used,
            host_pages=scheduler.host_pages - scheduler.host_free,
            waste=self._waste / max(1, counts.steps),
            hit_rate=self.pool.hit_rate,
            swapped_out=counts.swapped_out,
            swapped_in=counts.swapped_in,
            recomputed=counts.recomputed,
        )

    def check(self) -> None:
        """Assert that no page is lost, held twice or held for nobody, in the pool and on the host."""
        self.pool.check(self.scheduler.jobs)
        assert set(self._on_host) == {job for job in self.scheduler.jobs if job.on_host}
        waiting = sum(job.on_host for job in self.scheduler.jobs)
        assert self.scheduler.host_free == self.scheduler.host_pages - waiting
        assert set(self._answers) == set(self.scheduler.jobs)

    def _check(self, request: Request, asked: Asked) -> None:
        job = asked.answers[0].job
        needed = self.pool.needed(job.prompt + job.budget)
        if self.memory.window:
            needed = min(needed, self.pool.needed(self.memory.window + self.config.chunk_tokens) + 1)
        if needed > self.pool.pages:
            what = f"prompt and answer of {job.prompt + job.budget} tokens need {needed} pages of {self.pool.pages}"
            hint = "fewer max_tokens, or an engine with more pages"
            raise PromptError(what, where=f"request {request.id}", hint=hint)

    def _move(self, plan: Plan) -> None:
        """Carry out the plan's moves of pages, in the order that `Plan` states."""
        for job, pages in plan.out:
            self._on_host[job] = self.memory.save(pages)
        for source, target in plan.copies:
            self.memory.copy(source, target)
        for job, pages in plan.back:
            self.memory.restore(self._on_host.pop(job), pages)

    def _read(self, job: Job, row: Row, states: Float[Tensor, "seq dim"]) -> None:
        """Gather from the states of a row what is wanted of the prompt itself."""
        reading = self._asked[self._answers[job].request.id].reading
        assert reading is not None, "a prompt is read for nothing"
        reading.take(self.model, states, before=row.before)
        job.unread = not reading.done

    def _draw_all(self, ready: list[tuple[Job, int]], states: Float[Tensor, "tokens dim"]) -> list[Event]:
        """What comes of the jobs that were read to their end, each with the place of the state there."""
        events = [self._embed(job) for job, _ in ready if self._answers[job].request.embed]
        ready = [(job, place) for job, place in ready if job in self._answers]
        if ready:
            logits = self.model.head(states[[place for _, place in ready]]).float().cpu()
            for (job, _), row in zip(ready, logits.unbind(0), strict=True):
                events += self._answer(job, row)
        return events

    def _embed(self, job: Job) -> Event:
        """The end of a request that wants its prompt's embedding."""
        answer = self._answers[job]
        asked = self._asked.pop(answer.request.id)
        assert asked.reading is not None, "nothing was to be read"
        self._leave(answer)
        self._finished += 1
        return Event(id=answer.request.id, index=0, text="", embedding=asked.reading.embedding, last=True)

    def _answer(self, job: Job, logits: Float[Tensor, " vocab"]) -> list[Event]:
        """The next token of the job's answer, and the first one of each that begins as its copy."""
        answer = self._answers[job]
        asked = self._asked[answer.request.id]
        branches = [answer]
        if len(asked.answers) > 1 and not any(other.growing.tokens for other in asked.answers):
            for other in asked.answers[1:]:
                self.scheduler.copy(job, other.job)
                self.scheduler.add(other.job, self.clock())
                self._answers[other.job] = other
            branches = asked.answers
        events = [self._draw(branch, logits) for branch in branches]
        if not asked.open:
            del self._asked[answer.request.id]
            self._finished += 1
        if answer.request.chooses:
            events = [] if asked.open else _chosen(asked)
        if events and asked.reading:
            told, asked.reading = tuple(asked.reading.logps), None
            events[0] = replace(events[0], prompt_logps=told)
        return events if asked.open else [*events[:-1], replace(events[-1], last=True)]

    def _draw(self, answer: Answer, logits: Float[Tensor, " vocab"]) -> Event:
        """Take the answer's next token from `logits`; an answer that ends with it gives up its pages."""
        growing, request = answer.growing, answer.request
        piece = growing.step(logits)
        token = growing.tokens[-1]
        answer.job.tokens.append(token)
        answer.job.known += 1
        self._drawn += 1
        if growing.finish_reason:
            self._leave(answer)
            self._asked[request.id].open -= 1
        return Event(
            id=request.id,
            index=answer.index,
            text=piece,
            token=token,
            logp=growing.logps[-1] if request.sampling.logprobs else None,
            top=_likeliest(logits, request.top_logps),
            answer=growing.result() if growing.finish_reason else None,
        )

    def _leave(self, answer: Answer) -> None:
        self.scheduler.remove(answer.job)
        self._on_host.pop(answer.job, None)
        del self._answers[answer.job]


def _chosen(asked: Asked) -> list[Event]:
    """The best answers, each whole in one event."""
    return [
        Event(id=asked.request.id, index=index, text=result.text, answer=result)
        for index, result in enumerate(asked.chosen())
    ]


def _likeliest(logits: Float[Tensor, " vocab"], count: int) -> tuple[tuple[int, float], ...]:
    return likeliest(logits.log_softmax(-1)[None], count)[0] if count else ()


def _pages_in(model: Any, config: EngineConfig) -> int:
    size = page_bytes(model, config.page_size)
    return max(1, config.pool_bytes // size) if size else DEFAULT_STATES
