"""What is asked of the engine, and what it tells: a `Request` goes in, `Event`s come out, one per drawn token."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge

from luban.config import build, to_dict
from luban.errors import PromptError
from luban.inference.constrain import Constraint, form_of
from luban.inference.embed import Pooling
from luban.inference.engine.job import Job
from luban.inference.engine.reading import PromptLogp, Reading
from luban.inference.generate import Request as Growing
from luban.inference.generate import ends_of
from luban.lm import Generation, Sampling
from luban.tokenizers.base import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Request:
    """A prompt and what to make of it. With a seed, answer i of several draws as a request with seed + i would."""

    id: str
    """The caller's name for it, none of those on their way having the same."""
    prompt: Sequence[int]
    """Token ids."""
    sampling: Sampling = field(default_factory=Sampling)
    """How tokens are chosen and when to stop."""
    n: Annotated[int, Ge(1)] = 1
    """How many answers to give."""
    best_of: Annotated[int, Ge(0)] = 0
    """Write so many answers and give the `n` of highest mean log-probability, all at the end; 0 gives all it writes."""
    top_logps: Annotated[int, Ge(0)] = 0
    """With each token tell so many of the likeliest ones in its place."""
    prompt_logps: Annotated[int, Ge(0)] | None = None
    """Tell each prompt token's log-probability, and so many of the likeliest in its place; None tells neither."""
    constraint: Constraint | None = None
    """What the answer's text must be: a regular expression, a JSON schema, one of several texts, a grammar."""
    embed: Pooling | None = None
    """Write nothing and give the prompt's embedding: the mean of the last states, or the last one of them."""
    expected: Annotated[int, Ge(0)] = 0
    """A hint how many tokens the answer will have, for policies that use it; 0 takes `max_tokens`."""

    def __post_init__(self) -> None:
        """Raises PromptError, or ConfigError for a sampling value out of its range."""
        if self.n < 1:
            raise PromptError(
                f"n is {self.n}; at least one answer can be asked for", where=f"request {self.id}"
            )
        if self.best_of and self.best_of < self.n:
            what = f"the best {self.n} of {self.best_of} answers"
            raise PromptError(what, where=f"request {self.id}", hint=f"best_of={self.n} or more")
        if self.sampling.beams > 1:
            what = f"beams is {self.sampling.beams}: the engine draws answers and does not search"
            raise PromptError(what, where=f"request {self.id}", hint="LocalLM.generate searches with beams")
        if self.embed and (self.written > 1 or self.prompt_logps is not None):
            what = "an embedding is asked for together with answers or log-probabilities"
            raise PromptError(what, where=f"request {self.id}", hint="two requests")
        # One bad number would break the step that all requests share.
        build(Sampling, to_dict(self.sampling), where=f"request {self.id}")

    @property
    def written(self) -> int:
        """Answers that are written, whether or not they are given."""
        return self.best_of or self.n

    @property
    def chooses(self) -> bool:
        """Whether some answers are not given, so that none can be told before all are finished."""
        return self.written > self.n


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something new of one answer: a token and the text that is now certain, or, of a chosen answer, its whole."""

    id: str
    """The request's."""
    index: int
    """Which of the request's n answers."""
    text: str
    """Never with a broken character, and never taken back."""
    token: int | None = None
    logp: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens in this place with their log-probabilities, the first the likeliest."""
    prompt_logps: tuple[PromptLogp, ...] | None = None
    """In the request's first event, if asked for: of all prompt tokens but the first, which nothing precedes."""
    embedding: tuple[float, ...] | None = None
    """In the only event of a request for one."""
    answer: Generation | None = None
    """The whole answer, in its last event."""
    last: bool = False
    """Whether the request has no further event."""


@dataclass(eq=False)
class Answer:
    """One of a request's answers while it is written: the text that grows, and the job the scheduler knows."""

    request: Request
    index: int
    growing: Growing
    job: Job


@dataclass(eq=False)
class Asked:
    """A request on its way: its answers, and how many of them are not finished."""

    request: Request
    answers: list[Answer]
    open: int
    reading: Reading | None = None
    """What is to be told of the prompt, if anything."""

    def chosen(self) -> list[Generation]:
        """The answers to give, the likeliest per token first; only of a request that chooses, at its end."""
        results = [answer.growing.result() for answer in self.answers]
        results.sort(key=lambda result: -sum(result.logps) / len(result.logps))
        wanted = self.request.sampling.logprobs
        return [
            result if wanted else dataclasses.replace(result, logps=[])
            for result in results[: self.request.n]
        ]


def begin(
    request: Request, *, now: float, tokenizer: Tokenizer, stop_ids: frozenset[int], context: int, vocab: int
) -> Asked:
    """The answers of a new request, each with its own random stream.

    Raises PromptError for an unknown token, and as `generate.Request` and `form_of` do.
    """
    for token in request.prompt:
        if not 0 <= token < vocab:
            raise PromptError(
                f"token {token} is not one of the model's {vocab}", where=f"request {request.id}"
            )
    reading = None
    if request.embed or request.prompt_logps is not None:
        reading = Reading(prompt=request.prompt, likeliest=request.prompt_logps, pooling=request.embed)
    form, ends = None, ends_of(request.sampling, stop_ids)
    if request.constraint:
        form = form_of(request.constraint, tokenizer, vocab=vocab, stop_ids=ends)
    answers = []
    for index in range(request.written):
        growing = Growing(
            request.prompt,
            _sampling_of(request, index),
            tokenizer=tokenizer,
            stop_ids=stop_ids,
            context=context,
            vocab=vocab,
            form=form.copy() if form else None,
        )
        job = Job(
            id=f"{request.id}/{index}",
            arrived=now,
            prompt=len(request.prompt),
            budget=growing.budget,
            expected=min(request.expected, growing.budget),
            tokens=list(request.prompt),
            unread=reading is not None and index == 0,  # the others begin as its copies
        )
        answers.append(Answer(request, index, growing, job))
    return Asked(request, answers, len(answers), reading)


def _sampling_of(request: Request, index: int) -> Sampling:
    """Of the request's answer `index`: with its own seed, and what is needed to choose among several."""
    if request.embed:
        return Sampling(max_tokens=1)
    seed = request.sampling.seed
    return dataclasses.replace(
        request.sampling,
        seed=None if seed is None else seed + index,
        logprobs=request.sampling.logprobs or request.chooses,
    )
