"""What is told of a prompt is what an uncached pass over it says, however it was read."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from luban.errors import LubanError
from luban.inference.constrain import Constraint
from luban.inference.embed import embed_tokens
from luban.inference.engine import reading
from luban.inference.engine.engine import Engine
from luban.inference.engine.reading import PromptLogp
from luban.inference.engine.request import Event
from tests.inference.engine.served import FAMILIES, GREEDY, engine_of, loud, request

PROMPT = [5, 300, 17, 8, 9, 10, 11, 44, 2, 77, 31, 200, 201, 202]
SHORT = dataclasses.replace(GREEDY, max_tokens=4)


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Any:
    return loud(request.param)


@pytest.fixture(scope="module")
def llama() -> Any:
    return loud("llama")


def events_of(engine: Engine, *requests: Any) -> dict[str, list[Event]]:
    told: dict[str, list[Event]] = {one.id: [] for one in requests}
    for one in requests:
        engine.submit(one)
    while engine.busy:
        for event in engine.step():
            told[event.id].append(event)
        engine.check()
    return told


@torch.inference_mode()
def expected(model: Any, prompt: list[int], likeliest: int) -> list[tuple[float, list[int]]]:
    logps = model(torch.tensor([prompt]))[0].log_softmax(-1)
    return [
        (float(row[token]), row.topk(likeliest).indices.tolist())
        for row, token in zip(logps, prompt[1:], strict=False)
    ]


def agrees(told: tuple[PromptLogp, ...] | None, wanted: list[tuple[float, list[int]]]) -> None:
    assert told is not None
    assert [one.logp for one in told] == pytest.approx([logp for logp, _ in wanted], abs=1e-3)
    assert [[token for token, _ in one.top] for one in told] == [ids for _, ids in wanted]


@pytest.mark.parametrize("chunk", [256, 3])
def test_prompt_logps_are_those_of_an_uncached_pass(model: Any, chunk: int) -> None:
    asked = [request("a", PROMPT, SHORT, prompt_logps=2), request("b", PROMPT[:5], SHORT, prompt_logps=0)]
    told = events_of(engine_of(model, chunk_tokens=chunk), *asked, request("c", PROMPT[3:], SHORT))
    agrees(told["a"][0].prompt_logps, expected(model, PROMPT, 2))
    agrees(told["b"][0].prompt_logps, [(logp, []) for logp, _ in expected(model, PROMPT[:5], 1)])
    assert [event.prompt_logps for event in [*told["a"][1:], *told["c"]]] == [None] * (3 + 4)


def test_prompt_logps_are_told_of_what_the_pool_has_already(llama: Any) -> None:
    engine = engine_of(llama)
    events_of(engine, request("first", PROMPT, SHORT))
    told = events_of(engine, request("again", PROMPT, SHORT, prompt_logps=1))
    agrees(told["again"][0].prompt_logps, expected(llama, PROMPT, 1))


def test_prompt_logps_are_told_once_though_the_prompt_was_dropped_and_read_again(llama: Any) -> None:
    engine = engine_of(llama, pages=9, chunk_tokens=4)
    engine.submit(request("first", PROMPT[:8], dataclasses.replace(GREEDY, max_tokens=28)))
    for _ in range(3):
        engine.step()
    engine.submit(request("long", PROMPT * 2, SHORT, prompt_logps=1))
    told: list[Event] = []
    while not told:
        told += [event for event in engine.step() if event.id == "long"]
        engine.check()
    assert engine.stats().recomputed > 0, "the first, growing, takes the pages of the long one"
    agrees(told[0].prompt_logps, expected(llama, PROMPT * 2, 1))


def test_several_answers_have_one_prompt_and_chosen_ones_too(llama: Any) -> None:
    drawn = dataclasses.replace(SHORT, temperature=0.9, seed=1)
    for more in ({"n": 3}, {"n": 2, "best_of": 3}):
        told = events_of(engine_of(llama), request("r", PROMPT, drawn, prompt_logps=1, **more))["r"]
        agrees(told[0].prompt_logps, expected(llama, PROMPT, 1))
        assert not [event for event in told[1:] if event.prompt_logps is not None]


def test_a_prompt_of_one_token_has_nothing_to_tell(llama: Any) -> None:
    assert events_of(engine_of(llama), request("r", [7], SHORT, prompt_logps=1))["r"][0].prompt_logps == ()


def test_a_long_prompt_never_has_more_logits_at_once_than_the_bound(
    llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "LOGITS_AT_ONCE", 3 * 384)
    seen: list[int] = []
    hook = llama.head.register_forward_hook(lambda _module, given, _made: seen.append(len(given[0])))
    try:
        told = events_of(engine_of(llama), request("r", PROMPT, SHORT, prompt_logps=1))["r"]
    finally:
        hook.remove()
    assert max(seen) == 3
    agrees(told[0].prompt_logps, expected(llama, PROMPT, 1))


@pytest.mark.parametrize("chunk", [256, 3])
def test_an_embedding_is_the_mean_or_the_last_of_the_states(model: Any, chunk: int) -> None:
    asked = [
        request("mean", PROMPT, embed="mean"),
        request("last", PROMPT[:6], embed="last"),
        request("words", PROMPT, SHORT),
    ]
    engine = engine_of(model, chunk_tokens=chunk)
    told = events_of(engine, *asked)
    with torch.inference_mode():
        mean = model.hidden(torch.tensor([PROMPT]))[0].mean(0)
        last = model.hidden(torch.tensor([PROMPT[:6]]))[0, -1]
    for name, states in (("mean", mean), ("last", last)):
        (event,) = told[name]
        assert (event.last, event.answer, event.token, event.text) == (True, None, None, "")
        assert event.embedding == pytest.approx(states.tolist(), rel=1e-3, abs=1e-4)
    assert len(told["words"]) == 4
    assert engine.stats().finished == 3
    assert engine.pool.used == 0


def test_texts_embedded_together_are_embedded_as_alone(model: Any) -> None:
    texts = [PROMPT, PROMPT[:3], [9], PROMPT[2:9]]
    for pooling in ("mean", "last"):
        together = embed_tokens(model, texts, pooling)
        for vector, text in zip(together, texts, strict=True):
            assert vector == pytest.approx(embed_tokens(model, [text], pooling)[0], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"embed": "mean", "n": 2}, "an embedding is asked for together with answers"),
        ({"embed": "mean", "prompt_logps": 1}, "together with answers or log-probabilities"),
    ],
)
def test_what_cannot_be_told_together_is_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(LubanError, match=message):
        request("r", PROMPT, **more)


@pytest.mark.parametrize("text", [[], [1] * 65])
def test_a_text_without_tokens_or_beyond_the_window_has_no_embedding(llama: Any, text: list[int]) -> None:
    with pytest.raises(LubanError, match="text 1: the text"):
        embed_tokens(llama, [[1], text], "mean")


def test_a_form_that_cannot_be_kept_is_refused_when_it_is_asked_for_and_leaves_nothing(llama: Any) -> None:
    engine = engine_of(llama)
    with pytest.raises(LubanError, match="unclosed group"):
        engine.submit(request("r", PROMPT, constraint=Constraint(kind="regex", value="(a")))
    assert not engine.busy
    engine.check()


def test_answers_of_one_request_keep_to_one_form_each_on_its_own_way(llama: Any) -> None:
    drawn = dataclasses.replace(SHORT, temperature=9.0, seed=1, max_tokens=12)
    choice = Constraint.choice(["yes", "no", "perhaps"])
    told = events_of(engine_of(llama), request("r", PROMPT, drawn, n=6, constraint=choice))["r"]
    texts = [event.answer.text for event in told if event.answer]
    assert len(texts) == 6
    assert set(texts) <= {"yes", "no", "perhaps"}
    assert len(set(texts)) > 1
