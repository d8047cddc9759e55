"""`POST /v1/score`: how likely continuations are after their contexts, exactly as `LM.score` says."""

from __future__ import annotations

import functools
from typing import Any

from starlette.requests import Request

from luban.serving.answers import PairScore, Scores
from luban.serving.faults import json_response
from luban.serving.log import Record, record_of
from luban.serving.protocol import ScoreRequest
from luban.serving.reading import read
from luban.serving.served import Served, served_by
from luban.serving.sse import until_gone

PAIRS_AT_ONCE = 16
"""So many are scored between two steps of the engine, which nobody else's answer makes meanwhile."""


async def scores(request: Request) -> Any:
    """The scores of pairs."""
    served = served_by(request)
    asked = await read(request, ScoreRequest, served.limits)
    served.require(asked.model)
    work = score(served, asked, record_of(request))
    return json_response(await until_gone(request.receive, work, timeout_s=served.limits.timeout_s))


async def score(served: Served, asked: ScoreRequest, record: Record) -> Scores:
    """One score for each pair, in order; computed on the engine's thread, a few pairs between two steps."""
    pairs = [(pair[0], pair[1]) for pair in asked.pairs]
    data: list[PairScore] = []
    for first in range(0, len(pairs), PAIRS_AT_ONCE):
        some = pairs[first : first + PAIRS_AT_ONCE]
        for made in await served.engine.call(functools.partial(served.lm.score, some)):
            data.append(
                {
                    "object": "score",
                    "index": len(data),
                    "logprobs": made.logps,
                    "total": made.total,
                    "greedy": made.greedy,
                }
            )
    texts = [text for pair in pairs for text in pair]
    record.prompt_tokens = sum(map(len, served.lm.tokenizer.encode_batch(texts)))
    usage: Any = {"prompt_tokens": record.prompt_tokens, "total_tokens": record.prompt_tokens}
    return {"object": "list", "model": served.name, "data": data, "usage": usage}
