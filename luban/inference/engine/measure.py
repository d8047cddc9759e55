"""A profile of the machine and model at hand: a few steps of every shape are run, timed and fitted."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import Any

from luban.inference.engine.engine import Engine
from luban.inference.engine.profile import Profile, fit
from luban.inference.engine.request import Request
from luban.lm import Sampling


def measure(
    engine: Engine,
    *,
    together: Sequence[int] = (1, 4, 16),
    prompts: Sequence[int] = (16, 64, 192),
    answer: int = 16,
) -> Profile:
    """The cost of `engine`'s steps, from `together` requests of `prompts` tokens each, in all combinations.

    The engine must be idle and becomes it again. What its pool shares would not be computed: the prompts differ.
    """
    assert not engine.busy, "requests are on their way"
    largest = engine.model.config.context - answer
    shapes = [(rows, min(length, largest)) for rows, length in itertools.product(together, prompts)]
    _run(engine, 1, shapes[0][1], answer, salt=0)  # the first pass allocates, and may compile a kernel
    engine.measured.clear()
    for number, (rows, length) in enumerate(shapes, 1):
        _run(engine, rows, length, answer, salt=number)
    return fit(list(engine.measured), moved=page_seconds(engine))


def page_seconds(engine: Engine, pages: int = 8) -> float:
    """Seconds that a page takes to the host, or back."""
    some = list(range(min(pages, engine.pool.pages)))
    kept = engine.memory.save(some)
    started = time.perf_counter()
    engine.memory.restore(engine.memory.save(some), some)
    seconds = time.perf_counter() - started
    engine.memory.restore(kept, some)
    return seconds / (2 * len(some))


def _run(engine: Engine, rows: int, length: int, answer: int, *, salt: int) -> None:
    vocab: int = engine.model.config.vocab
    sampling = Sampling(temperature=0, max_tokens=answer, ignore_eos=True)
    for row in range(rows):
        prompt: list[Any] = [(salt * 7919 + row * 104729 + place * 31) % vocab for place in range(length)]
        engine.submit(Request(id=f"measured {salt}.{row}", prompt=prompt, sampling=sampling))
    while engine.busy:
        engine.step()
