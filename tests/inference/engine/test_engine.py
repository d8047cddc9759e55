"""An answer is the same alone, in any batch, set aside, moved, shared or copied; and no page is ever lost."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luban.errors import LubanError, PromptError
from luban.inference.engine.engine import Engine
from luban.inference.engine.request import Request
from luban.inference.generate import generate_tokens
from luban.lm import Sampling
from luban.models.rnn import RecurrentLM, RNNConfig
from tests import tiny
from tests.inference.engine.served import FAMILIES, GREEDY, engine_of, finish, loud, request, serve, texts_of

PROMPTS = [[5, 300, 17, 8, 9, 10, 11, 44, 2], [9], [44, 45, 46, 47, 48, 200], [7, 6, 5, 4, 3, 2, 1]]
DRAWN = [
    Sampling(temperature=0.9, seed=seed, max_tokens=5 + seed, repetition_penalty=1.2, ignore_eos=True)
    for seed in range(4)
]


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Any:
    return loud(request.param)


@pytest.fixture(scope="module")
def llama() -> Any:
    return loud("llama")


@pytest.fixture(scope="module")
def lstm() -> Any:
    torch.manual_seed(5)
    return RecurrentLM(RNNConfig(model_type="lstm", vocab=384, dim=32, layers=2, context=64)).eval()


def alone(model: Any, prompt: list[int], sampling: Sampling) -> list[int]:
    """What the plain loop, which has no pages and no batch, makes of it."""
    (made,) = generate_tokens(model, [prompt], [sampling], tokenizer=tiny.tokenizer(), stop_ids=frozenset())
    return made.tokens


def mixed() -> list[Request]:
    """Greedy and seeded requests of unlike lengths."""
    samplings = [GREEDY, *DRAWN[1:]]
    return [request(str(n), p, s) for n, (p, s) in enumerate(zip(PROMPTS, samplings, strict=True))]


def expected(model: Any, requests: list[Request]) -> list[list[int]]:
    return [alone(model, list(one.prompt), one.sampling) for one in requests]


def test_answers_in_a_batch_are_those_of_the_plain_loop_alone(model: Any) -> None:
    assert serve(model, *mixed()) == expected(model, mixed())


def test_a_prompt_read_in_chunks_gives_the_answer_of_one_read_whole(model: Any) -> None:
    assert serve(model, *mixed(), chunk_tokens=2) == expected(model, mixed())


def crowd() -> list[Request]:
    """The longest first, each later one shorter: more than 8 pages of 4 hold at once, or 2 states."""
    lengths = (20, 18, 14, 9)
    return [
        request(str(n), prompt, dataclasses.replace(DRAWN[n], max_tokens=length))
        for n, (prompt, length) in enumerate(zip(PROMPTS, lengths, strict=True))
    ]


def serve_as_they_come(engine: Engine, requests: list[Request]) -> list[list[int]]:
    """Each request comes two steps after the one before."""
    answers: dict[tuple[str, int], list[int]] = {}
    for one in requests:
        engine.submit(one)
        for _ in range(2):
            answers |= {(e.id, e.index): e.answer.tokens for e in engine.step() if e.answer}
    answers |= {key: made.tokens for key, made in finish(engine).items()}
    return [answers[one.id, 0] for one in requests]


@pytest.mark.parametrize("host", [40, 0])
@pytest.mark.parametrize("policy", ["fcfs", "mlfq", "srpt"])
def test_answers_that_were_set_aside_are_those_that_never_were(llama: Any, policy: str, host: int) -> None:
    engine = engine_of(llama, pages=8, host_pages=host, policy=policy)
    assert serve_as_they_come(engine, crowd()) == expected(llama, crowd())
    stats = engine.stats()
    assert (stats.swapped_out > 0, stats.recomputed > 0) == (host > 0, host == 0)
    assert stats.swapped_out == stats.swapped_in


@pytest.mark.parametrize(("name", "pages"), [("mamba", 2), ("mistral", 8), ("bloom", 8)])
def test_what_any_family_remembers_survives_the_host(name: str, pages: int) -> None:
    model = loud(name)
    engine = engine_of(model, pages=pages, host_pages=40, policy="srpt")
    assert serve_as_they_come(engine, crowd()) == expected(model, crowd())
    assert engine.stats().swapped_in > 0


def test_a_shared_beginning_is_computed_once_and_changes_no_answer(llama: Any) -> None:
    beginning = list(range(100, 116))  # 4 whole pages
    requests = [request(str(n), [*beginning, 7 + n, 8]) for n in range(3)]
    engine = engine_of(llama)
    answers = {}
    for one in requests:  # one after the other: what the first computed is found by the next
        engine.submit(one)
        answers |= finish(engine)
    assert [answers[one.id, 0].tokens for one in requests] == expected(llama, requests)
    # 18 tokens asked for three times; the second and third time 16 of them were there.
    assert engine.stats().hit_rate == pytest.approx(32 / 54)
    unshared = serve(llama, *requests, share=False)
    assert unshared == expected(llama, requests)


def test_pages_that_others_read_from_are_not_written_to(llama: Any) -> None:
    """Both continue the same whole pages at the same time, differently."""
    beginning = list(range(60, 68))
    first, second = request("a", [*beginning, 3]), request("b", [*beginning, 4])
    engine = engine_of(llama)
    engine.submit(first)
    engine.step()
    engine.submit(second)
    answers = finish(engine)
    assert engine.stats().hit_rate > 0
    assert [answers["a", 0].tokens, answers["b", 0].tokens] == expected(llama, [first, second])


def test_four_answers_of_one_request_are_four_requests_with_seeds_in_a_row(model: Any) -> None:
    sampling = dataclasses.replace(DRAWN[0], seed=40, max_tokens=9)
    engine = engine_of(model)
    engine.submit(request("r", PROMPTS[0], sampling, n=4))
    answers = finish(engine)
    for index in range(4):
        single = dataclasses.replace(sampling, seed=40 + index)
        assert answers["r", index].tokens == alone(model, PROMPTS[0], single)
    assert len({tuple(answers["r", index].tokens) for index in range(4)}) > 1


def test_copies_share_the_prompt_and_get_pages_of_their_own_when_they_write(llama: Any) -> None:
    engine = engine_of(llama, page_size=8)
    engine.submit(request("r", list(range(12)), DRAWN[0], n=4))
    engine.step()
    assert engine.pool.used == 2, "the prompt's two pages, held four times"
    engine.step()
    # The whole first page stays shared; the last, half full, is copied by all but the one that is left with it.
    assert engine.pool.used == 1 + 4
    assert sorted(set(engine.pool.holders)) == [0, 1, 4]


def test_best_of_gives_the_likeliest_answers_per_token_all_at_the_end(llama: Any) -> None:
    sampling = dataclasses.replace(DRAWN[0], seed=3, max_tokens=6, logprobs=True)
    engine = engine_of(llama)
    engine.submit(request("all", PROMPTS[0], sampling, n=4))
    every = finish(engine)
    means = sorted((-sum(a.logps) / len(a.logps), a.tokens) for a in every.values())
    engine.submit(request("best", PROMPTS[0], dataclasses.replace(sampling, logprobs=False), n=2, best_of=4))
    events = [event for _ in range(20) for event in engine.step()]
    assert [event.answer.tokens for event in events if event.answer] == [tokens for _, tokens in means[:2]]
    assert [(event.index, event.last) for event in events] == [(0, False), (1, True)]
    assert all(event.answer and event.answer.logps == [] for event in events), "they were not asked for"


def test_log_probabilities_and_the_likeliest_tokens_are_those_of_the_model(llama: Any) -> None:
    engine = engine_of(llama)
    engine.submit(
        request("r", PROMPTS[0], dataclasses.replace(GREEDY, max_tokens=1, logprobs=True), top_logps=3)
    )
    (event,) = engine.step()
    best = llama(torch.tensor([PROMPTS[0]]))[0, -1].log_softmax(-1).topk(3)
    assert [token for token, _ in event.top] == best.indices.tolist()
    assert [logp for _, logp in event.top] == pytest.approx(best.values.tolist(), abs=1e-4)
    assert event.token == event.top[0][0]
    assert event.logp == pytest.approx(event.top[0][1], abs=1e-5)


def test_the_pieces_of_a_streamed_answer_are_its_text(llama: Any) -> None:
    engine = engine_of(llama)
    engine.submit(request("r", PROMPTS[0], dataclasses.replace(DRAWN[1], max_tokens=20)))
    events = [event for _ in range(25) for event in engine.step()]
    assert events[-1].last
    assert events[-1].answer is not None
    assert texts_of(events) == events[-1].answer.text
    assert [event.token for event in events] == events[-1].answer.tokens


def test_a_stop_id_ends_an_answer(llama: Any) -> None:
    tokens = alone(llama, PROMPTS[0], GREEDY)
    engine = engine_of(llama)
    engine.stop_ids = frozenset({tokens[3]})
    engine.submit(request("r", PROMPTS[0], dataclasses.replace(GREEDY, ignore_eos=False)))
    answer = finish(engine)["r", 0]
    assert answer.tokens == tokens[: tokens.index(tokens[3]) + 1]
    assert answer.finish_reason == "stop"


def test_a_stop_string_ends_an_answer_before_it(llama: Any) -> None:
    engine = engine_of(llama)
    engine.submit(request("whole", PROMPTS[0], DRAWN[3]))
    text = finish(engine)["whole", 0].text
    stop = text[2:4]
    engine.submit(request("cut", PROMPTS[0], dataclasses.replace(DRAWN[3], stop=(stop,))))
    answer = finish(engine)["cut", 0]
    assert (answer.text, answer.finish_reason) == (text[: text.index(stop)], "stop")


def test_a_recurrent_network_is_served_like_any_other(lstm: Any) -> None:
    engine = engine_of(lstm, pages=2, host_pages=8, policy="srpt")
    assert serve_as_they_come(engine, crowd()) == expected(lstm, crowd())
    engine.submit(request("r", PROMPTS[0], DRAWN[0], n=2))
    assert finish(engine)["r", 1].tokens == alone(lstm, PROMPTS[0], dataclasses.replace(DRAWN[0], seed=1))


def test_requests_that_come_while_others_are_at_work_get_their_own_answers(llama: Any) -> None:
    engine = engine_of(llama, policy="mlfq", pages=10, host_pages=16)
    answers = {}
    for one in mixed():
        engine.submit(one)
        for _ in range(3):
            answers |= {(e.id, e.index): e.answer for e in engine.step() if e.answer}
    answers |= finish(engine)
    assert [answers[one.id, 0].tokens for one in mixed()] == expected(llama, mixed())


def test_an_abort_frees_the_pages_at_once(llama: Any) -> None:
    engine = engine_of(llama)
    engine.submit(request("r", list(range(20)), DRAWN[0], n=3))
    engine.step()
    engine.step()
    assert engine.pool.used > 0
    assert engine.abort("r")
    assert engine.pool.used == 0
    engine.check()
    assert not engine.abort("r")
    assert engine.stats().aborted == 1


def test_an_abort_frees_what_waits_on_the_host(llama: Any) -> None:
    engine = engine_of(llama, pages=8, host_pages=40)
    for one in crowd():
        engine.submit(one)
    while not engine.stats().host_pages:
        engine.step()
    for one in crowd():
        engine.abort(one.id)
    engine.check()
    assert (engine.stats().host_pages, engine.pool.used, engine.busy) == (0, 0, False)


def test_a_model_with_windows_holds_only_the_pages_it_looks_at() -> None:
    mistral = loud("mistral")
    engine = engine_of(mistral, page_size=4, share=False)
    engine.submit(request("r", PROMPTS[0], dataclasses.replace(GREEDY, max_tokens=40)))
    while engine.busy:
        engine.step()
        # A window of 9 places lies in 4 pages of 4 at most, whatever the text's length.
        assert engine.pool.used <= 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": []}, "the prompt is empty"),
        ({"prompt": [1] * 64}, "64 tokens and the model's window 64"),
        (
            {"prompt": [1] * 20, "sampling": dataclasses.replace(GREEDY, max_tokens=40)},
            "60 tokens need 15 pages",
        ),
        ({"prompt": [1, 384]}, "token 384 is not one of the model's 384"),
        ({"prompt": [-1]}, "token -1 is not"),
        ({"sampling": Sampling(temperature=-1.0)}, "temperature"),
        ({"sampling": Sampling(stop=("",))}, "a stop string is empty"),
        ({"sampling": Sampling(beams=2)}, "beams is 2"),
        ({"n": 0}, "n is 0"),
        ({"n": 3, "best_of": 2}, "the best 3 of 2"),
    ],
)
def test_a_request_that_cannot_be_served_is_refused_and_leaves_nothing(
    llama: Any, changes: dict[str, Any], message: str
) -> None:
    engine = engine_of(llama, pages=8)
    with pytest.raises(LubanError, match=message):
        engine.submit(Request(**{"id": "r", "prompt": [1], "sampling": GREEDY} | changes))
    assert not engine.busy
    engine.check()


def test_two_requests_on_their_way_have_two_names(llama: Any) -> None:
    engine = engine_of(llama)
    engine.submit(request("r", [1]))
    with pytest.raises(PromptError, match="on its way"):
        engine.submit(request("r", [2]))
    finish(engine)
    engine.submit(request("r", [2]))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), policy=st.sampled_from(["fcfs", "mlfq", "srpt"]), host=st.sampled_from([0, 5, 40]))
def test_no_page_is_lost_and_no_answer_mixed_up_by_random_submits_and_aborts(
    llama: Any, data: st.DataObject, policy: str, host: int
) -> None:
    engine = engine_of(llama, pages=9, host_pages=host, policy=policy, chunk_tokens=5, seats=3, spare_pages=1)
    asked: dict[str, Request] = {}
    answers: dict[tuple[str, int], list[int]] = {}
    for number in range(data.draw(st.integers(3, 14))):
        deed = data.draw(st.sampled_from(["submit", "submit", "step", "abort"]))
        if deed == "submit":
            prompt = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=14))
            sampling = dataclasses.replace(DRAWN[0], seed=number, max_tokens=data.draw(st.integers(1, 12)))
            asked[str(number)] = request(str(number), prompt, sampling, n=data.draw(st.integers(1, 2)))
            engine.submit(asked[str(number)])
        elif deed == "abort" and asked:
            engine.abort(data.draw(st.sampled_from(sorted(asked))))
        else:
            answers |= {(e.id, e.index): e.answer.tokens for e in engine.step() if e.answer}
        engine.check()
    answers |= {key: made.tokens for key, made in finish(engine).items()}
    for (name, index), tokens in answers.items():
        sampling = asked[name].sampling
        single = dataclasses.replace(sampling, seed=(sampling.seed or 0) + index)
        assert tokens == alone(llama, list(asked[name].prompt), single)
