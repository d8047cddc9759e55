"""The model that is served: its name, its words, the engine that writes with it, and what callers may have of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.requests import Request

from luban.inference.engine.async_engine import AsyncEngine
from luban.inference.engine.config import EngineConfig
from luban.inference.engine.engine import Engine
from luban.inference.local import LocalLM
from luban.serving.faults import ServingError
from luban.serving.limits import Limits
from luban.tokenizers.spelling import Spelling


@dataclass(frozen=True, kw_only=True)
class Served:
    """One model behind the server."""

    name: str
    lm: LocalLM
    engine: AsyncEngine
    limits: Limits
    seats: int
    room: int
    """Most tokens of a prompt and its answer: the model's window, or what the engine's pages hold."""
    spelling: Spelling
    created: int = field(default_factory=lambda: int(time.time()))
    """Seconds since 1970."""

    @property
    def waiting(self) -> int:
        """Answers that wait for a seat."""
        return max(0, self.engine.stats().answers - self.seats)

    def require(self, model: str | None) -> None:
        """Raise ServingError (404) if another model is asked for; none named is this one."""
        if model not in (None, self.name):
            what = f"the model '{model}' is not served here; '{self.name}' is"
            raise ServingError(what, status=404, param="model", code="model_not_found")

    def prompts(
        self, asked: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]
    ) -> list[list[int]]:
        """Token ids of one text or several, or the ids that were given; texts begin as the model saw them begin."""
        if isinstance(asked, str):
            return self.prompts([asked])
        if isinstance(asked[0], int):
            return [[token for token in asked if isinstance(token, int)]]
        texts = [text for text in asked if isinstance(text, str)]
        if not texts:
            return [list(ids) for ids in asked if not isinstance(ids, str | int)]
        tokenizer = self.lm.tokenizer
        before = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
        return [[*before, *ids] for ids in tokenizer.encode_batch(texts)]

    def ends(self, token: int, *, also: Sequence[int]) -> bool:
        """Whether `token` ends an answer: a stop id of the model's or one of the request's."""
        return token in self.lm.stop_ids or token in also

    def check_prompt(self, prompt: Sequence[int], *, param: str) -> None:
        """Raise ServingError for a prompt that is empty, holds an unknown token or leaves no room for an answer."""
        vocab = self.lm.model.config.vocab
        if not prompt:
            raise ServingError(f"'{param}' is empty", param=param, code="invalid_value")
        if max(prompt) >= vocab:
            what = f"'{param}': token {max(prompt)} is not one of the model's {vocab}"
            raise ServingError(what, param=param, code="invalid_value")
        if len(prompt) >= self.room:
            what = f"'{param}' has {len(prompt)} tokens and the window {self.room}: no room for an answer"
            raise ServingError(what, param=param, code="context_length_exceeded")


def serve_model(lm: LocalLM, *, name: str, engine: EngineConfig, limits: Limits) -> Served:
    """`lm` with an engine's thread of its own. Raises ModelError for a model that the engine cannot run."""
    inner = Engine(lm.model, lm.tokenizer, engine, stop_ids=lm.stop_ids)
    return Served(
        name=name or lm.name,
        lm=lm,
        engine=AsyncEngine(inner),
        limits=limits,
        seats=engine.seats,
        room=min(lm.context, inner.pool.pages * inner.pool.page_size),
        spelling=Spelling(lm.tokenizer),
    )


def served_by(request: Request) -> Served:
    """The model behind the application that `request` came to."""
    return request.app.state.served
