"""`POST /v1/embeddings`: texts as vectors, computed by the engine beside whatever else it does."""

from __future__ import annotations

import array
import base64
import contextlib
import math
import sys
from typing import Any

from starlette.requests import Request

from luban.inference.engine import request as engine
from luban.serving.answers import Embedding, Embeddings
from luban.serving.faults import ServingError, json_response
from luban.serving.log import Record, record_of
from luban.serving.protocol import EmbeddingRequest
from luban.serving.reading import read
from luban.serving.served import Served, served_by
from luban.serving.sse import until_gone
from luban.serving.writing import write


async def embeddings(request: Request) -> Any:
    """The vectors of texts."""
    served = served_by(request)
    asked = await read(request, EmbeddingRequest, served.limits)
    served.require(asked.model)
    work = embed(served, asked, record_of(request))
    return json_response(await until_gone(request.receive, work, timeout_s=served.limits.timeout_s))


async def embed(served: Served, asked: EmbeddingRequest, record: Record) -> Embeddings:
    """One vector for each text, in order."""
    prompts = served.prompts(asked.input)
    if len(prompts) > served.limits.max_answers:
        what = f"{len(prompts)} texts in one request; this server takes {served.limits.max_answers}"
        raise ServingError(what, param="input", code="invalid_value")
    for prompt in prompts:
        served.check_prompt(prompt, param="input")
    requests = [
        engine.Request(id=f"{record.id}-{place}", prompt=prompt, embed=asked.pooling)
        for place, prompt in enumerate(prompts)
    ]
    vectors: dict[int, tuple[float, ...]] = {}
    async with contextlib.aclosing(write(served.engine, requests, record)) as events:
        async for place, event in events:
            assert event.embedding is not None, "the engine told something else of a text to embed"
            vectors[place] = event.embedding
    data = [_row(place, vectors[place], asked) for place in range(len(prompts))]
    usage: Any = {"prompt_tokens": record.prompt_tokens, "total_tokens": record.prompt_tokens}
    return {"object": "list", "model": served.name, "data": data, "usage": usage}


def _row(place: int, vector: tuple[float, ...], asked: EmbeddingRequest) -> Embedding:
    if asked.normalize:
        length = math.sqrt(math.fsum(value * value for value in vector))
        vector = tuple(value / length for value in vector) if length else vector
    told: list[float] | str = list(vector)
    if asked.encoding_format == "base64":
        told = _in_base64(vector)
    return {"object": "embedding", "index": place, "embedding": told}


def _in_base64(vector: tuple[float, ...]) -> str:
    """The numbers as float32, the low byte first."""
    numbers = array.array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()
