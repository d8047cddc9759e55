"""`LLM`: the serving engine behind a few calls, `from luban import LLM, SamplingParams`.

    llm = LLM("models/SmolLM2-135M-Instruct")
    for made in llm.generate(["The capital of France is"], SamplingParams(temperature=0, max_tokens=8)):
        print(made.outputs[0].text)

All prompts of a call share the engine's steps. `stream` is for asynchronous callers; from its first use on a thread
owns the engine, and the other calls go through that thread too.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from luban.device import DeviceConfig
from luban.errors import PromptError
from luban.inference.embed import Pooling
from luban.inference.engine.async_engine import AsyncEngine
from luban.inference.engine.config import EngineConfig
from luban.inference.engine.engine import Engine
from luban.inference.engine.request import Event, Request
from luban.inference.local import LocalLM, open_lm
from luban.inference.outputs import RequestOutput, output_of
from luban.inference.params import SamplingParams
from luban.lm import Conversation, Score

Prompt = str | Sequence[int]
"""A text, or token ids."""


class LLM:
    """A model out of a folder, ready for many prompts at once. A context manager, or `close` it after `stream`."""

    def __init__(
        self,
        model: str | Path | LocalLM,
        *,
        engine: EngineConfig | None = None,
        device: DeviceConfig | None = None,
    ) -> None:
        """`model` is a folder in Hugging Face layout, an adapter's folder, or a model that is open already.

        Raises ModelError for a folder that is none, and for a model that the engine cannot run.
        """
        self.lm = model if isinstance(model, LocalLM) else open_lm(str(model), device)
        self.engine = Engine(self.lm.model, self.lm.tokenizer, engine, stop_ids=self.lm.stop_ids)
        self._async: AsyncEngine | None = None
        self._numbers = itertools.count()

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """The answers to each prompt, in the order of the prompts; `params` are for all, or one for each.

        Raises PromptError for a prompt that cannot be served, before any is.
        """
        listed = _listed(prompts)
        return self._finish(
            listed, [self.lm.prompt_ids(p) if isinstance(p, str) else p for p in listed], params
        )

    def chat(
        self,
        conversations: Conversation | Sequence[Conversation],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[RequestOutput]:
        """The assistant's next turn in each conversation, which is told of `tools`; `tools.parse` reads their calls."""
        one = bool(conversations) and isinstance(conversations[0], Mapping)
        several: Any = [conversations] if one else conversations
        prompts = [self.lm.render(conversation, tools=tools) for conversation in several]
        return self._finish([None] * len(prompts), prompts, params)

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[Score]:
        """For each (context, continuation): its log-probabilities; see `lm.LM.score`."""
        return self.lm.score(pairs)

    def embed(self, texts: str | Sequence[str], pooling: Pooling = "mean") -> list[list[float]]:
        """One vector for each text; see `LocalLM.embed`."""
        return self.lm.embed([texts] if isinstance(texts, str) else texts, pooling)

    async def stream(
        self, prompt: Prompt | Conversation, params: SamplingParams | None = None
    ) -> AsyncGenerator[Event, None]:
        """What becomes of one prompt, or conversation, token by token; who stops listening ends the work on it."""
        if isinstance(prompt, str):
            tokens: Sequence[int] = self.lm.prompt_ids(prompt)
        elif prompt and isinstance(prompt[0], Mapping):
            tokens = self.lm.render(prompt)  # pyright: ignore[reportArgumentType] - its first entry is a message
        else:
            tokens = prompt  # pyright: ignore[reportAssignmentType] - its first entry is no message
        if self._async is None:
            self._async = AsyncEngine(self.engine)
        async for event in self._async.generate(self._request(tokens, params or SamplingParams())):
            yield event

    def close(self) -> None:
        """Stop the thread that `stream` began, if it did."""
        if self._async is not None:
            self._async.close()
            self._async = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _finish(
        self,
        texts: Sequence[Prompt | None],
        prompts: Sequence[Sequence[int]],
        params: SamplingParams | Sequence[SamplingParams] | None,
    ) -> list[RequestOutput]:
        """Each prompt's output, computed together."""
        each = list(params) if isinstance(params, Sequence) else [params or SamplingParams()] * len(prompts)
        if len(each) != len(prompts):
            raise PromptError(f"{len(each)} sampling params for {len(prompts)} prompts", where="params")
        requests = [self._request(ids, one) for ids, one in zip(prompts, each, strict=True)]
        events: dict[str, list[Event]] = {request.id: [] for request in requests}
        for event in self._step(requests) if self._async is None else _in_a_thread(self._async, requests):
            events[event.id].append(event)
        return [
            output_of(
                events[request.id],
                prompt=text if isinstance(text, str) else None,
                tokens=request.prompt,
                tokenizer=self.lm.tokenizer,
                logprobs=request.sampling.logprobs,
            )
            for request, text in zip(requests, texts, strict=True)
        ]

    def _request(self, prompt: Sequence[int], params: SamplingParams) -> Request:
        return Request(
            id=f"llm-{next(self._numbers)}",
            prompt=list(prompt),
            sampling=params.sampling,
            n=params.n,
            best_of=params.best_of or 0,
            top_logps=params.logprobs or 0,
            prompt_logps=params.prompt_logprobs,
            constraint=params.constraint,
        )

    def _step(self, requests: Sequence[Request]) -> list[Event]:
        """All events of `requests`; if anything fails, none of them stays behind."""
        events: list[Event] = []
        try:
            for request in requests:
                self.engine.submit(request)
            while self.engine.busy:
                events += self.engine.step()
        except BaseException:
            for request in requests:
                self.engine.abort(request.id)
            raise
        return events


def _listed(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """Several prompts, or one."""
    if isinstance(prompts, str):
        return [prompts]
    one = bool(prompts) and isinstance(prompts[0], int)
    return [prompts] if one else list(prompts)  # pyright: ignore[reportReturnType] - ids or prompts, by the first


def _in_a_thread(engine: AsyncEngine, requests: Sequence[Request]) -> list[Event]:
    """All events of `requests`, asked for on a loop of its own: the caller's may be running."""
    events: list[Event] = []
    failed: list[BaseException] = []

    async def listen(request: Request) -> None:
        events.extend([event async for event in engine.generate(request)])

    async def listen_to_all() -> None:
        async with asyncio.TaskGroup() as group:
            for request in requests:
                group.create_task(listen(request))

    def work() -> None:
        try:
            asyncio.run(listen_to_all())
        except BaseExceptionGroup as error:
            failed.append(error.exceptions[0])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return events
