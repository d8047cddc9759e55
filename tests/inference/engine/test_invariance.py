"""A request's greedy or seeded answer is the same alone and among neighbours that use every other feature."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luban.inference.constrain import Constraint
from luban.inference.engine.request import Request
from luban.inference.generate import generate_tokens
from luban.lm import Generation, Sampling
from tests import tiny
from tests.inference.engine.served import engine_of, loud

CONSTRAINTS = [
    None,
    Constraint(kind="regex", value="[a-z]{2,6}( [a-z]{1,3}){0,2}"),
    Constraint.choice(["yes", "no", "perhaps"]),
    Constraint.json_schema({"type": "array", "items": {"type": "integer", "maximum": 99}, "maxItems": 3}),
]
SAMPLINGS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.9},
    {"temperature": 0.9, "typical_p": 0.7, "logprobs": True},
    {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.01},
    {"temperature": 0.0, "no_repeat_ngram": 2, "frequency_penalty": 0.5},
    {
        "temperature": 1.0,
        "logit_bias": {40: 8.0, 41: -50.0},
        "bad_words": ("the",),
        "repetition_penalty": 1.3,
    },
    {"temperature": 1.0, "stop_ids": (60, 61, 62), "min_tokens": 3, "presence_penalty": 0.4},
    {"temperature": 1.0, "allowed_ids": tuple(range(60, 120)), "stop": ("a", "e")},
]


@pytest.fixture(scope="module")
def llama() -> Any:
    return loud("llama")


@st.composite
def requests(draw: st.DrawFn) -> list[Request]:
    made = []
    for number in range(draw(st.integers(2, 6))):
        values: dict[str, Any] = draw(st.sampled_from(SAMPLINGS)) | {"seed": draw(st.integers(0, 99))}
        prompt = draw(st.lists(st.integers(0, 383), min_size=1, max_size=18))
        likeliest = draw(st.sampled_from([None, None, 0, 2]))
        if draw(st.integers(0, 5)) == 0:
            made.append(Request(id=str(number), prompt=prompt, embed="mean"))
            continue
        made.append(
            Request(
                id=str(number),
                prompt=prompt,
                sampling=Sampling(max_tokens=draw(st.integers(3, 14)), **values),
                top_logps=draw(st.integers(0, 2)),
                prompt_logps=likeliest,
                constraint=draw(st.sampled_from(CONSTRAINTS)),
                n=draw(st.sampled_from([1, 1, 2])),
            )
        )
    return made


def alone(model: Any, request: Request) -> Generation:
    """What the plain loop makes of it."""
    (made,) = generate_tokens(
        model,
        [request.prompt],
        [request.sampling],
        tokenizer=tiny.tokenizer(),
        stop_ids=frozenset(),
        constraint=request.constraint,
    )
    return made


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    asked=requests(),
    policy=st.sampled_from(["fcfs", "mlfq", "srpt"]),
    chunk=st.sampled_from([3, 256]),
    host=st.sampled_from([0, 20]),
    gap=st.integers(0, 2),
)
def test_an_answer_is_the_same_alone_and_in_any_mixed_batch(
    llama: Any, asked: list[Request], policy: str, chunk: int, host: int, gap: int
) -> None:
    engine = engine_of(llama, pages=12, policy=policy, chunk_tokens=chunk, host_pages=host, seats=3)
    answers: dict[tuple[str, int], Generation] = {}
    for request in asked:
        engine.submit(request)
        for _ in range(gap):
            answers |= {(e.id, e.index): e.answer for e in engine.step() if e.answer}
    while engine.busy:
        answers |= {(e.id, e.index): e.answer for e in engine.step() if e.answer}
        engine.check()
    for request in asked:
        if not request.embed:
            assert answers[request.id, 0].tokens == alone(llama, request).tokens
            assert answers[request.id, 0].text == alone(llama, request).text
