"""Attention over pages: paged equals dense equals uncached, whole equals in chunks, for every kind of slot."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from luban.errors import ModelError
from luban.inference.engine.memory import KeyMemory, memory_for, page_bytes
from luban.inference.engine.paged import Layout, PagedSlot, Row
from luban.nn.cache import Dense
from luban.nn.rope_scaling import RopeScaling
from tests import tiny
from tests.inference.engine.served import FAMILIES, loud

TEXTS = [[5, 300, 17, 8, 9, 10, 11, 44, 2, 90, 31, 7, 7], [9], [44, 45, 46, 47, 48, 200]]


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Any:
    return loud(request.param)


def tables(count: int, *, pages: int, size: int, longest: int, state: bool) -> list[list[int]]:
    """Pages in no order, enough for `longest` tokens in each of `count` texts."""
    order = random.Random(3).sample(range(pages), pages)
    each = 1 if state else -(-longest // size)
    return [order[number * each : (number + 1) * each] for number in range(count)]


def read(model: Any, texts: list[list[int]], chunk: int) -> list[torch.Tensor]:
    """The logits after each chunk of each text, the texts going through side by side."""
    memory = memory_for(model, pages=24, page_size=4)
    tabled = tables(len(texts), pages=24, size=4, longest=16, state=not isinstance(memory, KeyMemory))
    found: list[list[torch.Tensor]] = [[] for _ in texts]
    for first in range(0, max(map(len, texts)), chunk):
        going = [number for number, text in enumerate(texts) if len(text) > first]
        rows = [Row(texts[number][first : first + chunk], first, tabled[number]) for number in going]
        with torch.inference_mode():
            states = memory.forward(model, rows).split([len(row.tokens) for row in rows])
            for number, own in zip(going, states, strict=True):
                found[number].append(model.head(own[-1]))
    return [torch.stack(each) for each in found]


@torch.inference_mode()
def uncached(model: Any, text: list[int], chunk: int) -> torch.Tensor:
    ends = [min(first + chunk, len(text)) - 1 for first in range(0, len(text), chunk)]
    return model(torch.tensor([text]))[0, ends]


@pytest.mark.parametrize("chunk", [1, 3, 5, 13])
def test_paged_logits_are_those_of_an_uncached_pass(model: Any, chunk: int) -> None:
    for text, paged in zip(TEXTS, read(model, TEXTS, chunk), strict=True):
        torch.testing.assert_close(paged, uncached(model, text, chunk), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_paged_logits_are_those_of_a_dense_cache(model: Any) -> None:
    text = TEXTS[0]
    cache, dense = model.make_cache(batch=1, capacity=len(text)), []
    for place, token in enumerate(text):
        states = model.hidden(torch.tensor([[token]]), torch.tensor([[place]]), cache)
        dense.append(model.head(states[0, -1]))
        for slot in cache:
            slot.advance(1)
    torch.testing.assert_close(read(model, [text], 1)[0], torch.stack(dense), rtol=1e-4, atol=1e-4)


def test_a_row_of_attention_is_computed_alike_to_the_bit_whatever_stands_beside_it() -> None:
    torch.manual_seed(1)
    like = Dense(
        batch=1, kv_heads=2, capacity=1, head_dim=16, dtype=torch.float32, device=torch.device("cpu")
    )
    rows = [Row([0] * new, 0, list(range(first, first + 8))) for new, first in ((19, 0), (1, 8), (30, 16))]
    q, k, v = (torch.randn(1, heads, 50, 16) for heads in (4, 2, 2))

    def attend(some: list[Row], first: int, new: int) -> torch.Tensor:
        slot = PagedSlot(like, pages=24, page_size=4)
        slot.layout = Layout(some, page_size=4, device=torch.device("cpu"))
        ends = slice(first, first + new)
        return slot.attend(q[:, :, ends], k[:, :, ends], v[:, :, ends])

    together = attend(rows, 0, 50)
    assert torch.equal(attend(rows[:1], 0, 19), together[:, :, :19])
    assert torch.equal(attend(rows[2:], 20, 30), together[:, :, 20:])


@torch.inference_mode()
@pytest.mark.parametrize("name", ["llama", "mamba"])
def test_pages_that_were_saved_and_put_elsewhere_say_the_same(name: str) -> None:
    model = loud(name)
    memory = memory_for(model, pages=8, page_size=16)
    memory.forward(model, [Row(TEXTS[0][:-1], 0, [2])])
    saved = memory.save([2])
    memory.forward(model, [Row(TEXTS[2], 0, [2])])  # another text takes the page
    memory.restore(saved, [5])
    memory.copy(5, 6)
    ends = [memory.forward(model, [Row(TEXTS[0][-1:], len(TEXTS[0]) - 1, [page])]) for page in (5, 6)]
    expected = uncached(model, TEXTS[0], len(TEXTS[0]))
    for states in ends:
        torch.testing.assert_close(model.head(states), expected, rtol=1e-4, atol=1e-4)


def test_a_page_has_the_bytes_that_its_numbers_say() -> None:
    model = loud("llama")
    memory = memory_for(model, pages=3, page_size=16)
    assert isinstance(memory, KeyMemory)
    # 2 layers x (keys, values) x 2 key heads x 8 numbers of 4 bytes x 16 tokens
    assert page_bytes(model, 16) == 2 * 2 * 2 * 8 * 4 * 16
    assert sum(slot.store.nbytes for slot in memory.slots) == 3 * page_bytes(model, 16)


def test_what_the_engine_cannot_run_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="continue a text; 'bert' is none"):
        memory_for(tiny.bert(), pages=1, page_size=1)
    dynamic = tiny.llama(rope_scaling=RopeScaling(kind="dynamic", factor=2.0, original_context=32))
    with pytest.raises(ModelError, match="dynamic RoPE"):
        memory_for(dynamic, pages=1, page_size=1)
