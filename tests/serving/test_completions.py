"""`/v1/completions` by the official client: what it says equals what the model says here."""

from __future__ import annotations

from typing import Any

import openai
import pytest
import torch

from luban.lm import Sampling
from tests import tiny
from tests.serving.running import Running

PROMPT = "The quick brown"


def ask(server: Running, prompt: Any = PROMPT, **more: Any) -> Any:
    known: dict[str, Any] = {"max_tokens": 6, "temperature": 0}
    return server.client().completions.create(model="tiny", prompt=prompt, **(known | more))


def here(server: Running, prompt: str = PROMPT, **sampling: Any) -> Any:
    known: dict[str, Any] = {"max_tokens": 6, "temperature": 0, "logprobs": True}
    return server.served.lm.generate([prompt], Sampling(**(known | sampling)))[0]


def test_a_continuation_is_the_models_own(server: Running) -> None:
    answer, expected = ask(server), here(server)
    assert answer.choices[0].text == expected.text
    assert answer.choices[0].finish_reason == expected.finish_reason == "length"
    assert answer.object == "text_completion"
    assert answer.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": expected.prompt_tokens,
        "completion_tokens": 6,
        "total_tokens": expected.prompt_tokens + 6,
    }


def test_ids_and_several_prompts_are_answered_each_as_alone(server: Running) -> None:
    prompts = [PROMPT, "numbers: 1", "鲁班"]
    alone = [here(server, prompt).text for prompt in prompts]
    assert [choice.text for choice in ask(server, prompts).choices] == alone
    ids = tiny.tokenizer().encode_batch(prompts)
    assert [choice.text for choice in ask(server, ids).choices] == alone
    assert ask(server, ids[1]).choices[0].text == alone[1]


def test_several_answers_draw_from_seeds_in_order(server: Running) -> None:
    drawn = {"temperature": 1, "seed": 7}
    answer = ask(server, [PROMPT, "a"], n=3, **drawn)
    expected = [
        here(server, prompt, temperature=1, seed=7 + shift).text
        for prompt in (PROMPT, "a")
        for shift in range(3)
    ]
    assert [choice.text for choice in answer.choices] == expected
    assert [choice.index for choice in answer.choices] == list(range(6))


def test_a_stream_says_the_same_and_then_the_usage(server: Running) -> None:
    whole = ask(server, [PROMPT, "a"], n=2, logprobs=1, temperature=1, seed=1)
    stream = ask(
        server, [PROMPT, "a"], n=2, logprobs=1, temperature=1, seed=1, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    *chunks, last = list(stream)
    texts, tokens, reasons = [""] * 4, [[] for _ in range(4)], [None] * 4
    for chunk in chunks:
        assert chunk.usage is None
        (choice,) = chunk.choices
        texts[choice.index] += choice.text
        tokens[choice.index] += choice.logprobs.tokens
        reasons[choice.index] = choice.finish_reason
    assert texts == [choice.text for choice in whole.choices]
    assert tokens == [choice.logprobs.tokens for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert last.choices == []
    assert last.usage == whole.usage
    assert {chunk.id for chunk in [*chunks, last]} == {last.id}


def test_logprobs_are_the_models_own_with_the_likeliest_tokens(server: Running) -> None:
    told = ask(server, logprobs=3).choices[0].logprobs
    expected = here(server)
    spelling = server.served.spelling
    assert told.tokens == [spelling.text(token) for token in expected.tokens]
    assert told.token_logprobs == pytest.approx(expected.logps, abs=1e-5)
    ids = tiny.tokenizer().encode(PROMPT)
    with torch.no_grad():
        logps = server.served.lm.model(torch.tensor([ids]))[0, -1].log_softmax(-1)
    best = logps.topk(3)
    likeliest = {
        spelling.text(token): logp
        for token, logp in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    }
    assert told.top_logprobs[0] == pytest.approx(likeliest, abs=1e-4)
    assert told.text_offset == [sum(map(len, told.tokens[:place])) for place in range(6)]


def test_tokens_can_be_told_as_ids(server: Running) -> None:
    told = ask(server, logprobs=0, extra_body={"return_tokens_as_token_ids": True}).choices[0].logprobs
    assert told.tokens == [f"token_id:{token}" for token in here(server).tokens]
    assert told.top_logprobs is None


def test_an_echo_begins_with_the_prompt_and_its_probabilities(server: Running) -> None:
    choice = ask(server, echo=True, logprobs=2, n=2, temperature=1, seed=3).choices[1]
    answer = here(server, temperature=1, seed=4)
    ids = tiny.tokenizer().encode(PROMPT)
    assert choice.text == PROMPT + answer.text
    assert len(choice.logprobs.tokens) == len(ids) + 6
    assert choice.logprobs.token_logprobs[0] is choice.logprobs.top_logprobs[0] is None
    with torch.no_grad():
        logps = server.served.lm.model(torch.tensor([ids]))[0].log_softmax(-1)
    expected = [float(logps[place, token]) for place, token in enumerate(ids[1:])]
    assert choice.logprobs.token_logprobs[1 : len(ids)] == pytest.approx(expected, abs=1e-4)
    assert all(2 <= len(top) <= 3 for top in choice.logprobs.top_logprobs[1:])


def test_an_echo_of_no_new_tokens_scores_a_text(server: Running) -> None:
    answer = ask(server, echo=True, logprobs=0, max_tokens=0)
    assert answer.choices[0].text == PROMPT
    assert len(answer.choices[0].logprobs.tokens) == answer.usage.prompt_tokens
    assert answer.usage.completion_tokens == 0
    with pytest.raises(openai.BadRequestError, match="only echo"):
        ask(server, max_tokens=0)


def test_a_streamed_echo_comes_first(server: Running) -> None:
    pieces = [chunk.choices[0].text for chunk in ask(server, echo=True, stream=True)]
    assert pieces[0] == PROMPT
    assert "".join(pieces) == PROMPT + here(server).text


def test_the_best_of_several_have_the_highest_mean_probability(server: Running) -> None:
    answers = [here(server, temperature=1, seed=5 + shift) for shift in range(4)]
    answers.sort(key=lambda answer: -sum(answer.logps) / len(answer.logps))
    told = ask(server, best_of=4, n=2, temperature=1, seed=5, logprobs=0).choices
    assert [choice.text for choice in told] == [answer.text for answer in answers[:2]]
    assert told[0].logprobs.token_logprobs == pytest.approx(answers[0].logps, abs=1e-5)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("stop", "o", {"stop": ("o",)}),
        ("stop", ["zz", "7"], {"stop": ("zz", "7")}),
        ("presence_penalty", 1.5, {"presence_penalty": 1.5}),
        ("frequency_penalty", -1.5, {"frequency_penalty": -1.5}),
        ("logit_bias", {"50": 100}, {"logit_bias": {50: 100}}),
        ("top_p", 0.3, {"top_p": 0.3}),
        ("top_k", 2, {"top_k": 2}),
        ("top_k", -1, {}),
        ("min_p", 0.5, {"min_p": 0.5}),
        ("typical_p", 0.3, {"typical_p": 0.3}),
        ("repetition_penalty", 3.0, {"repetition_penalty": 3.0}),
        ("no_repeat_ngram_size", 1, {"no_repeat_ngram": 1}),
        ("allowed_token_ids", [40, 41], {"allowed_ids": (40, 41)}),
        ("stop_token_ids", list(range(100, 384)), {"stop_ids": tuple(range(100, 384))}),
        ("temperature", 0.2, {"temperature": 0.2}),
        ("max_tokens", 20, {"max_tokens": 20}),
    ],
)
def test_a_field_does_what_the_sampling_of_its_name_does(
    server: Running, field: str, value: Any, expected: dict[str, Any]
) -> None:
    asked: dict[str, Any] = {"temperature": 1, "seed": 3, "max_tokens": 12}
    body = {"prompt": PROMPT, **asked, field: value}
    told = server.post("/v1/completions", body).json()["choices"][0]
    answer = here(server, **(asked | expected))
    assert (told["text"], told["finish_reason"]) == (answer.text, answer.finish_reason)


def test_an_answer_goes_on_where_stops_are_passed_over(server: Running) -> None:
    asked = {"prompt": PROMPT, "temperature": 1, "seed": 3, "max_tokens": 12}
    every = {"logit_bias": {str(server.served.lm.tokenizer.eos_id): 100}}
    for more, tokens in (({}, 1), ({"min_tokens": 5}, 6), ({"ignore_eos": True}, 12)):
        answer = server.post("/v1/completions", asked | every | more).json()
        assert answer["usage"]["completion_tokens"] == tokens


def test_a_negative_seed_is_a_seed(server: Running) -> None:
    first, second, other = (ask(server, temperature=1, seed=seed).choices[0].text for seed in (-5, -5, -6))
    assert first == second != other


def test_what_the_request_leaves_open_is_as_openai_documents(server: Running) -> None:
    answer = server.post("/v1/completions", {"prompt": PROMPT, "seed": 2, "ignore_eos": True}).json()
    assert answer["usage"]["completion_tokens"] == 16
    assert (
        answer["choices"][0]["text"]
        == here(server, temperature=1, seed=2, max_tokens=16, ignore_eos=True).text
    )
