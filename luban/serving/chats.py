"""`POST /v1/chat/completions`: a conversation is answered, told whole or piece by piece."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from luban.inference.engine import request as engine
from luban.inference.engine.request import Event
from luban.serving.answers import (
    Chat,
    ChatChoice,
    ChatChunk,
    ChatLogprobs,
    DeltaChoice,
    OneLogprob,
    TokenLogprob,
    answer,
    usage_of,
)
from luban.serving.asking import check_logprobs, check_writing, constraint_of, engine_requests
from luban.serving.faults import ServingError
from luban.serving.log import Record
from luban.serving.messages import conversation, tool_schemas
from luban.serving.protocol import ChatRequest
from luban.serving.served import Served
from luban.serving.turns import Turn, join, plan_turns
from luban.serving.working import worked
from luban.serving.writing import write


async def chats(request: Request) -> Any:
    """The answer to a conversation."""
    return await worked(request, ChatRequest, Work)


@dataclass(eq=False)
class Work:
    """One conversation: what the engine is asked, and what its events say to the caller."""

    served: Served
    asked: ChatRequest
    record: Record
    request: engine.Request = field(init=False)
    turns: dict[int, Turn] = field(default_factory=dict)
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        asked, served = self.asked, self.served
        check_writing(served, asked, prompts=1)
        check_logprobs(served, asked, asked.top_logprobs, param="top_logprobs")
        if asked.top_logprobs is not None and not asked.logprobs:
            raise ServingError("'top_logprobs' needs logprobs", param="top_logprobs", code="invalid_value")
        self.plan = plan_turns(asked, constraint_of(asked), served.lm.tokenizer)
        (self.request,) = engine_requests(
            served,
            asked,
            [self._prompt()],
            param="messages",
            name=self.record.id,
            max_tokens=asked.max_tokens
            if asked.max_completion_tokens is None
            else asked.max_completion_tokens,
            logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
            constraint=self.plan.constraint,
            skip_special=self.plan.calls is None and asked.skip_special_tokens,
        )

    async def whole(self) -> Chat:
        """All answers."""
        choices: dict[int, ChatChoice] = {}
        async with contextlib.aclosing(self._pieces()) as pieces:
            async for piece in pieces:
                join(choices, piece)
        told = [choices[index] for index in sorted(choices)]
        return self._answer("chat.completion", told, usage=self._usage())

    async def chunks(self) -> AsyncGenerator[ChatChunk, None]:
        """The same, piece by piece: first the role, then words or calls, then why it ended, then the tokens."""
        options = self.asked.stream_options
        counted = options is not None and options.include_usage
        uncounted: dict[str, Any] = {"usage": None} if counted else {}
        kind = "chat.completion.chunk"
        async with contextlib.aclosing(self._pieces()) as pieces:
            async for piece in pieces:
                yield self._answer(kind, [piece], **uncounted)
        if counted:
            yield self._answer(kind, [], usage=self._usage())

    async def _pieces(self) -> AsyncGenerator[DeltaChoice, None]:
        async with contextlib.aclosing(write(self.served.engine, [self.request], self.record)) as events:
            async for _, event in events:
                for piece in self._pieces_of(event):
                    yield piece

    def _pieces_of(self, event: Event) -> Iterator[DeltaChoice]:
        """What an event adds to its answer: the role before the first, the reason after the last."""
        index = event.index
        if index not in self.turns:
            self.turns[index] = Turn(self.plan)
            yield _piece(index, {"role": "assistant", "content": ""})
        turn = self.turns[index]
        logprobs = self._logprobs(event) if self.asked.logprobs else None
        deltas = turn.push(event.text, last=event.answer is not None)
        if logprobs and not deltas:
            deltas = [{}]  # a token without words of its own is told all the same
        for number, delta in enumerate(deltas):
            yield _piece(index, delta, None if number else logprobs)
        if event.answer is not None:
            called = event.answer.finish_reason == "stop" and turn.called
            yield {
                **_piece(index, {}),
                "finish_reason": "tool_calls" if called else event.answer.finish_reason,
            }

    def _prompt(self) -> list[int]:
        """The conversation's ids, the call for an answer included."""
        tokenizer = self.served.lm.tokenizer
        if tokenizer.chat_template is None:
            what = "this model has no chat template; /v1/completions continues plain text"
            raise ServingError(what, param="messages", code="no_chat_template")
        return tokenizer.render(
            conversation(self.asked), tools=tool_schemas(self.asked), add_generation_prompt=True
        )[0]

    def _logprobs(self, event: Event) -> ChatLogprobs | None:
        """Of the tokens that an event tells; the one that ended an answer has no text and is left out."""
        if event.token is not None:
            drawn: list[Any] = [(event.token, event.logp, event.top)]
        else:
            assert event.answer is not None
            drawn = [
                (token, logp, ()) for token, logp in zip(event.answer.tokens, event.answer.logps, strict=True)
            ]
        stops = self.asked.stop_token_ids or ()
        if (
            event.answer
            and event.answer.finish_reason == "stop"
            and self.served.ends(drawn[-1][0], also=stops)
        ):
            drawn.pop()
        content = [self._told(token, logp, top) for token, logp, top in drawn]
        return {"content": content, "refusal": None} if content else None

    def _told(self, token: int, logp: float, top: Sequence[tuple[int, float]]) -> TokenLogprob:
        return {**self._one(token, logp), "top_logprobs": [self._one(*other) for other in top]}

    def _one(self, token: int, logp: float) -> OneLogprob:
        spelling = self.served.spelling
        text = f"token_id:{token}" if self.asked.return_tokens_as_token_ids else spelling.text(token)
        return {"token": text, "logprob": logp, "bytes": spelling.bytes(token)}

    def _answer(self, kind: str, choices: list[Any], **parts: Any) -> Any:
        name = f"chatcmpl-{self.record.id}"
        return answer(name, kind, self.served.name, self.created, choices=choices, **parts)

    def _usage(self) -> Any:
        return usage_of(self.record.prompt_tokens, self.record.completion_tokens)


def _piece(index: int, delta: Any, logprobs: ChatLogprobs | None = None) -> DeltaChoice:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}
