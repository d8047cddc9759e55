"""The cached loop: batched equals alone, cached equals uncached, and every way an answer can end."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luban.errors import PromptError
from luban.inference.generate import Request, generate_tokens, pad_left, stream_tokens
from luban.lm import Generation, Sampling
from tests import tiny

GREEDY = Sampling(temperature=0, max_tokens=12, ignore_eos=True)
NOTHING: frozenset[int] = frozenset()


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(5)
    return loud(getattr(tiny, request.param)())


def loud(model: Any) -> Any:
    """Spread the logits of a fresh model, so that no two tokens nearly tie and rounding decides nothing."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6)
    return model.eval()


def generate(
    model: Any, prompts: list[list[int]], *samplings: Sampling, stop_ids: frozenset[int] = NOTHING
) -> list[Generation]:
    each = list(samplings) if len(samplings) == len(prompts) else [samplings[0]] * len(prompts)
    return generate_tokens(model, prompts, each, tokenizer=tiny.tokenizer(), stop_ids=stop_ids)


def test_a_greedy_answer_is_the_argmax_of_uncached_forwards(model: Any) -> None:
    tokens = [5, 300, 17]
    for _ in range(12):
        tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    assert generate(model, [[5, 300, 17]], GREEDY)[0].tokens == tokens[3:]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prompts=st.lists(st.lists(st.integers(0, 383), min_size=1, max_size=20), min_size=1, max_size=5),
    temperature=st.sampled_from([0.0, 0.8]),
    lengths=st.lists(st.integers(1, 14), min_size=5, max_size=5),
)
def test_a_request_gets_the_same_tokens_alone_and_in_a_batch(
    model: Any, prompts: list[list[int]], temperature: float, lengths: list[int]
) -> None:
    samplings = [
        Sampling(
            temperature=temperature, seed=index, max_tokens=length, repetition_penalty=1.2, ignore_eos=True
        )
        for index, length in enumerate(lengths[: len(prompts)])
    ]
    together = generate(model, prompts, *samplings)
    for prompt, sampling, expected in zip(prompts, samplings, together, strict=True):
        alone = generate(model, [prompt], sampling)[0]
        assert (alone.tokens, alone.text) == (expected.tokens, expected.text)


def test_log_probabilities_are_those_of_the_model_before_penalties_and_temperature(model: Any) -> None:
    sampling = Sampling(temperature=1.5, top_k=5, presence_penalty=2, seed=1, max_tokens=6, logprobs=True)
    made = generate(model, [[9, 8, 7]], sampling)[0]
    logps = model(torch.tensor([[9, 8, 7, *made.tokens]])).detach()[0, 2:-1].log_softmax(-1)
    expected = [float(row[token]) for row, token in zip(logps, made.tokens, strict=True)]
    assert made.logps == pytest.approx(expected, abs=1e-4)


def test_a_stop_id_ends_the_answer_and_is_not_in_its_text(model: Any) -> None:
    free = generate(model, [[5, 6]], GREEDY)[0].tokens
    stop = free[4]
    sampling = Sampling(temperature=0, max_tokens=12)
    made = generate(model, [[5, 6]], sampling, stop_ids=frozenset([stop]))[0]
    expected = free[: free.index(stop) + 1]
    assert (made.tokens, made.finish_reason) == (expected, "stop")
    assert made.text == tiny.tokenizer().decode(expected[:-1])


def test_a_stop_id_is_passed_over_if_asked_for(model: Any) -> None:
    stop_ids = frozenset(range(384))
    made = generate(model, [[5, 6]], GREEDY, stop_ids=stop_ids)[0]
    assert (len(made.tokens), made.finish_reason) == (12, "length")


def test_a_stop_string_ends_the_text_before_it(model: Any) -> None:
    text = generate(model, [[5, 6]], GREEDY)[0].text
    stop = text[3:6]
    sampling = Sampling(temperature=0, max_tokens=12, ignore_eos=True, stop=(stop,))
    made = generate(model, [[5, 6]], sampling)[0]
    assert (made.text, made.finish_reason) == (text[: text.index(stop)], "stop")


def test_an_answer_stops_at_its_own_length(model: Any) -> None:
    made = generate(model, [[1], [2]], Sampling(max_tokens=3, ignore_eos=True, seed=0), GREEDY)
    assert [(len(one.tokens), one.finish_reason, one.prompt_tokens) for one in made] == [
        (3, "length", 1),
        (12, "length", 1),
    ]


def test_an_answer_stops_at_the_end_of_the_window_also_beside_longer_ones(model: Any) -> None:
    sampling = Sampling(temperature=0, max_tokens=1000, ignore_eos=True)
    long, short = generate(model, [[7] * 60, [7] * 3], sampling)
    assert (len(long.tokens), len(short.tokens)) == (4, 61)
    assert {long.finish_reason, short.finish_reason} == {"length"}


def test_a_prompt_that_fills_the_window_is_refused_with_both_numbers(model: Any) -> None:
    with pytest.raises(PromptError, match=r"64 tokens.*window 64"):
        generate(model, [[1] * 64], GREEDY)


def test_an_empty_prompt_is_refused(model: Any) -> None:
    with pytest.raises(PromptError, match="empty"):
        generate(model, [[]], GREEDY)


def test_no_prompts_give_no_answers(model: Any) -> None:
    assert generate_tokens(model, [], [], tokenizer=tiny.tokenizer(), stop_ids=NOTHING) == []


@pytest.mark.parametrize("stop", [(), ("e",), ("the", "\N{REPLACEMENT CHARACTER}")])
def test_a_stream_is_the_answer_in_pieces(model: Any, stop: tuple[str, ...]) -> None:
    sampling = Sampling(temperature=1, seed=4, max_tokens=30, ignore_eos=True, stop=stop)
    pieces = list(stream_tokens(model, [5, 6], sampling, tokenizer=tiny.tokenizer(), stop_ids=NOTHING))
    assert "".join(pieces) == generate(model, [[5, 6]], sampling)[0].text
    assert all(pieces)


def test_a_stream_refuses_a_bad_prompt_at_the_call(model: Any) -> None:
    with pytest.raises(PromptError):
        stream_tokens(model, [], GREEDY, tokenizer=tiny.tokenizer(), stop_ids=NOTHING)


def test_a_stream_can_be_left_in_the_middle(model: Any) -> None:
    stream = stream_tokens(model, [5, 6], GREEDY, tokenizer=tiny.tokenizer(), stop_ids=NOTHING)
    assert len(list(itertools.islice(stream, 2))) == 2
    assert generate(model, [[5, 6]], GREEDY)[0].finish_reason == "length"


def test_generating_leaves_nothing_that_stops_training(model: Any) -> None:
    stream = stream_tokens(model, [5, 6], GREEDY, tokenizer=tiny.tokenizer(), stop_ids=NOTHING)
    next(stream)
    assert model(torch.tensor([[1, 2]])).requires_grad


def test_left_padding_counts_positions_from_the_first_token() -> None:
    tokens, positions, valid = pad_left([[4, 5, 6], [9]], device=torch.device("cpu"))
    assert tokens.tolist() == [[4, 5, 6], [0, 0, 9]]
    assert positions.tolist() == [[0, 1, 2], [0, 0, 0]]
    assert valid is not None
    assert valid.tolist() == [[True, True, True], [False, False, True]]


def test_prompts_of_one_length_need_no_mask() -> None:
    assert pad_left([[4, 5], [9, 9]], device=torch.device("cpu"))[2] is None


def told(tokens: list[int], *stops: str) -> Generation:
    """What a request makes of `tokens`, each of them by far the likeliest in its turn."""
    sampling = Sampling(temperature=0, max_tokens=len(tokens), stop=stops)
    tokenizer = tiny.tokenizer()
    request = Request([1], sampling, tokenizer=tokenizer, stop_ids=NOTHING, context=64, vocab=384)
    for token in tokens:
        request.step(torch.nn.functional.one_hot(torch.tensor(token), 384).float())
    return request.result()


def test_text_that_only_began_like_a_stop_string_is_not_lost_at_the_end() -> None:
    tokens = tiny.tokenizer().encode("the end")
    assert told(tokens, "d of all").text == "the end"


def test_a_character_that_never_became_whole_is_shown_as_broken() -> None:
    tokens = tiny.tokenizer().encode("a🦉")
    broken = told(tokens[:-1])
    assert broken.text == tiny.tokenizer().decode(tokens[:-1])
    assert broken.text.endswith("\N{REPLACEMENT CHARACTER}")


def test_a_stop_string_may_come_true_in_what_was_held_back() -> None:
    tokens = tiny.tokenizer().encode("a🦉")
    made = told(tokens[:-1], "\N{REPLACEMENT CHARACTER}")
    assert (made.text, made.finish_reason) == ("a", "stop")
