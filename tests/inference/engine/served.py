"""What the engine's tests share: models whose choices are clear, and an engine run to its end."""

from __future__ import annotations

from typing import Any

import torch

from luban.inference.engine.config import EngineConfig
from luban.inference.engine.engine import Engine
from luban.inference.engine.request import Event, Request
from luban.lm import Generation, Sampling
from tests import tiny

GREEDY = Sampling(temperature=0, max_tokens=12, ignore_eos=True)
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"model_type": "mistral", "window": 9},
    "gpt2": {},
    "bloom": {},
    "mamba": {},
}


def loud(name: str) -> Any:
    """A tiny model whose logits are spread, so that no two tokens nearly tie and rounding decides nothing."""
    torch.manual_seed(5)
    changes = FAMILIES[name]
    model = tiny.llama(**changes) if changes else getattr(tiny, name)()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6)
    return model.eval()


def engine_of(model: Any, **settings: Any) -> Engine:
    """An engine with room for every test unless `settings` say otherwise."""
    return Engine(
        model,
        tiny.tokenizer(),
        EngineConfig(**({"pages": 64, "page_size": 4, "policy": "fcfs"} | settings)),
        stop_ids=frozenset(),
    )


def request(name: str, prompt: list[int], sampling: Sampling = GREEDY, **more: Any) -> Request:
    return Request(id=name, prompt=prompt, sampling=sampling, **more)


def finish(engine: Engine) -> dict[tuple[str, int], Generation]:
    """Step until nothing is left, checking the pages each time; every answer by request and index."""
    answers: dict[tuple[str, int], Generation] = {}
    while engine.busy:
        for event in engine.step():
            if event.answer is not None:
                answers[event.id, event.index] = event.answer
        engine.check()
    assert engine.pool.used == 0
    return answers


def serve(model: Any, *requests: Request, **settings: Any) -> list[list[int]]:
    """The tokens of each request's first answer, all submitted before the first step."""
    engine = engine_of(model, **settings)
    for one in requests:
        engine.submit(one)
    answers = finish(engine)
    return [answers[one.id, 0].tokens for one in requests]


def texts_of(events: list[Event]) -> str:
    return "".join(event.text for event in events)
