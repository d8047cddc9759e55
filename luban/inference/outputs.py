"""What `LLM` gives back, in the shape that vLLM's users know: one `RequestOutput` for each prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from luban.inference.engine.reading import PromptLogp
from luban.inference.engine.request import Event
from luban.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class Logprob:
    """How likely a token is in its place, in natural logarithm."""

    logprob: float
    decoded_token: str


@dataclass(frozen=True, kw_only=True)
class CompletionOutput:
    """One answer. `token_ids` includes the stop id that ended it, `text` never does."""

    index: int
    text: str
    token_ids: list[int]
    finish_reason: Literal["stop", "length"]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    """For each token: itself and the likeliest in its place, if asked for."""


@dataclass(frozen=True, kw_only=True)
class RequestOutput:
    """A prompt and its answers."""

    request_id: str
    prompt: str | None
    """The text that was given; None where ids or a conversation were."""
    prompt_token_ids: list[int]
    prompt_logprobs: list[dict[int, Logprob] | None] | None
    """For each prompt token the same as for an answer's; None for the first, which nothing precedes."""
    outputs: list[CompletionOutput]


def output_of(
    events: Sequence[Event],
    *,
    prompt: str | None,
    tokens: Sequence[int],
    tokenizer: Tokenizer,
    logprobs: bool,
) -> RequestOutput:
    """All that the engine told of one request."""
    told = next((event.prompt_logps for event in events if event.prompt_logps is not None), None)
    indices = sorted({event.index for event in events})
    of_prompt: list[dict[int, Logprob] | None] | None = None
    if told is not None:
        of_prompt = [None, *(_named(t, known, tokenizer) for t, known in zip(tokens[1:], told, strict=True))]
    return RequestOutput(
        request_id=events[0].id,
        prompt=prompt,
        prompt_token_ids=list(tokens),
        prompt_logprobs=of_prompt,
        outputs=[_answer([e for e in events if e.index == index], tokenizer, logprobs) for index in indices],
    )


def _answer(events: Sequence[Event], tokenizer: Tokenizer, logprobs: bool) -> CompletionOutput:
    made = events[-1].answer
    assert made is not None, "the answer is not finished"
    # Of a chosen answer there is one event only, which tells no token's neighbours.
    tops = [event.top for event in events] if len(events) == len(made.tokens) else [()] * len(made.tokens)
    known = [
        _named(token, PromptLogp(logp, top), tokenizer)
        for token, logp, top in zip(made.tokens, made.logps, tops, strict=False)
    ]
    return CompletionOutput(
        index=events[-1].index,
        text=made.text,
        token_ids=made.tokens,
        finish_reason=made.finish_reason,
        cumulative_logprob=math.fsum(made.logps) if logprobs else None,
        logprobs=known if logprobs else None,
    )


def _named(token: int, known: PromptLogp, tokenizer: Tokenizer) -> dict[int, Logprob]:
    """The likeliest tokens of a place, and the one that stands there, by id."""
    logps = dict(known.top) | {token: known.logp}
    return {one: Logprob(logp, tokenizer.decode([one], skip_special=False)) for one, logp in logps.items()}
