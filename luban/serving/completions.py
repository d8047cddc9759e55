"""`POST /v1/completions`: texts are continued, told whole or piece by piece."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from luban.inference.engine import request as engine
from luban.inference.engine.request import Event
from luban.serving.answers import Completion, CompletionChoice, CompletionLogprobs, answer, usage_of
from luban.serving.asking import check_logprobs, check_writing, constraint_of, engine_requests
from luban.serving.faults import ServingError
from luban.serving.log import Record
from luban.serving.protocol import CompletionRequest
from luban.serving.served import Served
from luban.serving.working import worked
from luban.serving.writing import write


async def completions(request: Request) -> Any:
    """The answer to a request for continuations."""
    return await worked(request, CompletionRequest, Work)


@dataclass(eq=False)
class Work:
    """One request for continuations: what the engine is asked, and what its events say to the caller."""

    served: Served
    asked: CompletionRequest
    record: Record
    requests: list[engine.Request] = field(init=False)
    echoes: dict[int, CompletionChoice] = field(default_factory=dict)
    """By the prompt's place."""
    lengths: dict[int, int] = field(default_factory=dict)
    """Of each continuation so far, in signs, for `text_offset`."""
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        asked, served = self.asked, self.served
        prompts = served.prompts(asked.prompt)
        check_writing(served, asked, prompts=len(prompts))
        check_logprobs(served, asked, asked.logprobs, param="logprobs")
        if asked.max_tokens == 0 and not asked.echo:
            raise ServingError("'max_tokens' is 0, which only echo has a use for", param="max_tokens")
        self.requests = engine_requests(
            served,
            asked,
            prompts,
            param="prompt",
            name=self.record.id,
            max_tokens=asked.max_tokens,
            logprobs=asked.logprobs,
            constraint=constraint_of(asked),
            skip_special=asked.skip_special_tokens,
            echoed=asked.echo,
        )

    async def whole(self) -> Completion:
        """All continuations."""
        choices: dict[int, CompletionChoice] = {}
        async with contextlib.aclosing(self._pieces()) as pieces:
            async for piece in pieces:
                known = choices.setdefault(piece["index"], piece)
                if known is not piece:
                    _join(known, piece)
        return self._answer([choices[index] for index in sorted(choices)], usage=self._usage())

    async def chunks(self) -> AsyncGenerator[Completion, None]:
        """The same, piece by piece."""
        options = self.asked.stream_options
        counted = options is not None and options.include_usage
        uncounted: dict[str, Any] = {"usage": None} if counted else {}
        async with contextlib.aclosing(self._pieces()) as pieces:
            async for piece in pieces:
                if piece["text"] or piece["logprobs"] or piece["finish_reason"]:
                    yield self._answer([piece], **uncounted)
        if counted:
            yield self._answer([], usage=self._usage())

    async def _pieces(self) -> AsyncGenerator[CompletionChoice, None]:
        async with contextlib.aclosing(write(self.served.engine, self.requests, self.record)) as events:
            async for place, event in events:
                for piece in self._pieces_of(place, event):
                    yield piece

    def _pieces_of(self, place: int, event: Event) -> Iterator[CompletionChoice]:
        """What an event of the prompt at `place` adds to its continuation, after the prompt itself if it is echoed."""
        index = place * self.asked.n + event.index
        if self.asked.echo and index not in self.lengths:
            if place not in self.echoes:  # its first event tells of the prompt
                self.echoes[place] = self._echo(self.requests[place].prompt, event)
            self.lengths[index] = len(self.echoes[place]["text"])
            yield _copied(self.echoes[place], index)
        length = self.lengths.get(index, 0)
        piece = self._piece(index, event, length)
        self.lengths[index] = length + sum(map(len, _tokens_of(piece)))
        yield piece

    def _piece(self, index: int, event: Event, offset: int) -> CompletionChoice:
        """What an event adds to its continuation."""
        reason = event.answer.finish_reason if event.answer else None
        if self.asked.max_tokens == 0:  # the engine draws a token all the same
            return {"index": index, "text": "", "logprobs": None, "finish_reason": "length"}
        logprobs = None if self.asked.logprobs is None else self._logprobs(event, offset)
        return {"index": index, "text": event.text, "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(self, event: Event, offset: int) -> CompletionLogprobs:
        """Of the tokens that an event tells, as vLLM does also of the one that ended the answer."""
        if event.token is not None:
            return self._told([(event.token, event.logp, event.top)], offset)
        assert event.answer is not None
        rows = zip(event.answer.tokens, event.answer.logps, strict=True)
        return self._told([(token, logp, ()) for token, logp in rows], offset)

    def _echo(self, prompt: Sequence[int], event: Event) -> CompletionChoice:
        """The prompt as the beginning of its continuations."""
        text = self.served.lm.tokenizer.decode(prompt, skip_special=False)
        if self.asked.logprobs is None:
            return {"index": 0, "text": text, "logprobs": None, "finish_reason": None}
        told = event.prompt_logps or ()
        rows: list[Any] = [(prompt[0], None, None)]
        rows += [(token, row.logp, row.top) for token, row in zip(prompt[1:], told, strict=True)]
        return {"index": 0, "text": text, "logprobs": self._told(rows, 0), "finish_reason": None}

    def _told(self, rows: Sequence[tuple[int, float | None, Any]], offset: int) -> CompletionLogprobs:
        """Tokens with their probabilities as OpenAI's completions tell them."""
        tokens = [self._spelled(token) for token, _, _ in rows]
        offsets = itertools.accumulate(map(len, tokens[:-1]), initial=offset)
        tops: list[Any] | None = None
        if self.asked.logprobs:
            tops = [
                None if top is None else {self._spelled(one): value for one, value in ((token, logp), *top)}
                for token, logp, top in rows
            ]
        return {
            "tokens": tokens,
            "token_logprobs": [logp for _, logp, _ in rows],
            "top_logprobs": tops,
            "text_offset": list(offsets),
        }

    def _spelled(self, token: int) -> str:
        if self.asked.return_tokens_as_token_ids:
            return f"token_id:{token}"
        return self.served.spelling.text(token)

    def _answer(self, choices: list[CompletionChoice], **parts: Any) -> Completion:
        name, kind = f"cmpl-{self.record.id}", "text_completion"
        return answer(name, kind, self.served.name, self.created, choices=choices, **parts)

    def _usage(self) -> Any:
        drawn = 0 if self.asked.max_tokens == 0 else self.record.completion_tokens
        return usage_of(self.record.prompt_tokens, drawn)


def _join(known: CompletionChoice, piece: CompletionChoice) -> None:
    """Put `piece` behind what is known of its continuation."""
    known["text"] += piece["text"]
    known["finish_reason"] = piece["finish_reason"]
    told, new = known["logprobs"], piece["logprobs"]
    if told is None or new is None:
        known["logprobs"] = told or new
        return
    told["tokens"] += new["tokens"]
    told["token_logprobs"] += new["token_logprobs"]
    told["text_offset"] += new["text_offset"]
    if told["top_logprobs"] is not None:
        told["top_logprobs"] += new["top_logprobs"] or []


def _copied(choice: CompletionChoice, index: int) -> CompletionChoice:
    """A choice of another index whose lists are its own, as several answers begin with one echo."""
    logprobs = choice["logprobs"]
    if logprobs is None:
        return {**choice, "index": index}
    tops = logprobs["top_logprobs"]
    own: CompletionLogprobs = {
        "tokens": [*logprobs["tokens"]],
        "token_logprobs": [*logprobs["token_logprobs"]],
        "top_logprobs": None if tops is None else [*tops],
        "text_offset": [*logprobs["text_offset"]],
    }
    return {**choice, "index": index, "logprobs": own}


def _tokens_of(piece: CompletionChoice) -> list[str]:
    return piece["logprobs"]["tokens"] if piece["logprobs"] else []
