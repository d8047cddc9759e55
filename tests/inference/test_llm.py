"""`LLM`: prompts in, outputs in their order out, the same as the plain loop's; async callers beside others."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from luban import LLM, SamplingParams
from luban.errors import ModelError, PromptError
from luban.inference.engine.config import EngineConfig
from luban.inference.local import LocalLM
from luban.models.hf import save
from tests import tiny
from tests.inference.engine.served import loud

GREEDY = SamplingParams(temperature=0, max_tokens=9, ignore_eos=True)
PROMPTS = ["The quick brown fox", "What is", "鲁班"]


@pytest.fixture(scope="module")
def lm() -> LocalLM:
    return LocalLM(loud("llama"), tiny.tokenizer(), name="tiny")


@pytest.fixture
def llm(lm: LocalLM) -> Iterator[LLM]:
    with LLM(lm, engine=EngineConfig(pages=64, page_size=4)) as made:
        yield made


def texts(outputs: Any) -> list[str]:
    return [output.outputs[0].text for output in outputs]


def test_answers_are_those_of_the_plain_loop_in_the_order_of_the_prompts(llm: LLM, lm: LocalLM) -> None:
    assert texts(llm.generate(PROMPTS, GREEDY)) == [one.text for one in lm.generate(PROMPTS, GREEDY.sampling)]


def test_one_prompt_as_text_or_ids_is_a_list_of_one(llm: LLM, lm: LocalLM) -> None:
    ids = lm.prompt_ids(PROMPTS[0])
    (by_text,), (by_ids,) = llm.generate(PROMPTS[0], GREEDY), llm.generate(ids, GREEDY)
    assert by_text.outputs == by_ids.outputs
    assert (by_text.prompt, by_ids.prompt) == (PROMPTS[0], None)
    assert by_text.prompt_token_ids == ids
    assert texts(llm.generate([ids, PROMPTS[1]], GREEDY)) == texts(llm.generate(PROMPTS[:2], GREEDY))


def test_each_prompt_can_have_its_own_params(llm: LLM) -> None:
    made = llm.generate(PROMPTS[:2], [GREEDY, dataclasses.replace(GREEDY, max_tokens=2)])
    assert [len(output.outputs[0].token_ids) for output in made] == [9, 2]
    with pytest.raises(PromptError, match="1 sampling params for 2 prompts"):
        llm.generate(PROMPTS[:2], [GREEDY])


def test_several_answers_have_the_seeds_in_a_row(llm: LLM) -> None:
    drawn = dataclasses.replace(GREEDY, temperature=1.0, seed=7)
    (three,) = llm.generate(PROMPTS[0], dataclasses.replace(drawn, n=3))
    single = [
        llm.generate(PROMPTS[0], dataclasses.replace(drawn, seed=7 + i))[0].outputs[0] for i in range(3)
    ]
    assert [one.token_ids for one in three.outputs] == [one.token_ids for one in single]
    assert [one.index for one in three.outputs] == [0, 1, 2]


def test_log_probabilities_are_told_of_prompt_and_answer(llm: LLM, lm: LocalLM) -> None:
    (made,) = llm.generate(
        PROMPTS[0], dataclasses.replace(GREEDY, logprobs=2, prompt_logprobs=0, max_tokens=3)
    )
    with torch.inference_mode():
        logps = lm.model(torch.tensor([made.prompt_token_ids + made.outputs[0].token_ids]))[0].log_softmax(-1)
    told = made.prompt_logprobs
    assert told is not None
    assert told[0] is None
    for place, (token, known) in enumerate(zip(made.prompt_token_ids[1:], told[1:], strict=True)):
        assert known is not None
        assert known[token].logprob == pytest.approx(float(logps[place, token]), abs=1e-3)
    answer = made.outputs[0]
    assert answer.logprobs is not None
    for place, (token, known) in enumerate(zip(answer.token_ids, answer.logprobs, strict=True)):
        row = logps[len(made.prompt_token_ids) - 1 + place]
        assert set(known) == set(row.topk(2).indices.tolist())
        assert known[token].logprob == pytest.approx(float(row[token]), abs=1e-3)
        assert known[token].decoded_token == lm.tokenizer.decode([token])
    own = [known[token].logprob for token, known in zip(answer.token_ids, answer.logprobs, strict=True)]
    assert answer.cumulative_logprob == pytest.approx(math.fsum(own))


def test_what_was_not_asked_for_is_not_told(llm: LLM) -> None:
    (made,) = llm.generate(PROMPTS[0], GREEDY)
    assert made.prompt_logprobs is None
    assert (made.outputs[0].logprobs, made.outputs[0].cumulative_logprob) == (None, None)


def test_chosen_answers_are_the_likeliest(llm: LLM) -> None:
    drawn = dataclasses.replace(GREEDY, temperature=1.0, seed=7, logprobs=0)
    every = llm.generate(PROMPTS[0], dataclasses.replace(drawn, n=4))[0].outputs
    best = llm.generate(PROMPTS[0], dataclasses.replace(drawn, n=1, best_of=4))[0].outputs
    likeliest = max(every, key=lambda one: (one.cumulative_logprob or 0) / len(one.token_ids))
    assert [one.token_ids for one in best] == [likeliest.token_ids]
    assert best[0].cumulative_logprob == pytest.approx(likeliest.cumulative_logprob)


def test_a_guided_answer_is_one_of_the_choices(llm: LLM) -> None:
    made = llm.generate(PROMPTS, SamplingParams(seed=1, guided_choice=["yes", "no"]))
    assert set(texts(made)) <= {"yes", "no"}


def test_a_conversation_is_answered_through_the_template(llm: LLM, lm: LocalLM) -> None:
    conversations: Any = [[{"role": "user", "content": text}] for text in ("Hi", "Who?")]
    expected = [one.text for one in lm.chat(conversations, GREEDY.sampling)]
    assert texts(llm.chat(conversations, GREEDY)) == expected
    assert texts(llm.chat(conversations[0], GREEDY)) == expected[:1]


def test_scores_and_embeddings_are_those_of_the_model(llm: LLM, lm: LocalLM) -> None:
    assert llm.score([("The", " fox")]) == lm.score([("The", " fox")])
    (vector,) = llm.embed("The fox", "last")
    with torch.inference_mode():
        states = lm.model.hidden(torch.tensor([lm.prompt_ids("The fox")]))[0, -1]
    assert vector == pytest.approx(states.tolist(), rel=1e-4, abs=1e-5)


def test_a_prompt_that_cannot_be_served_leaves_nothing_of_the_others(llm: LLM) -> None:
    with pytest.raises(PromptError, match="the model's window 64"):
        llm.generate([PROMPTS[0], [1] * 64], GREEDY)
    assert not llm.engine.busy
    assert llm.engine.pool.used == 0
    assert len(llm.generate(PROMPTS, GREEDY)) == 3


def test_a_stream_tells_the_answer_piece_by_piece_and_others_go_on_beside_it(llm: LLM) -> None:
    (whole,) = llm.generate(PROMPTS[0], GREEDY)
    second = texts(llm.generate(PROMPTS[1], GREEDY))

    async def listen() -> tuple[str, list[str]]:
        heard, beside = "", list[str]()
        async for event in llm.stream(PROMPTS[0], GREEDY):
            heard += event.text
            if not beside:
                beside = texts(llm.generate(PROMPTS[1], GREEDY))
        return heard, beside

    assert asyncio.run(listen()) == (whole.outputs[0].text, second)
    with pytest.raises(PromptError, match="the model's window 64"):
        llm.generate([1] * 64, GREEDY)
    llm.close()
    assert texts(llm.generate(PROMPTS[1], GREEDY)) == second


def test_who_stops_listening_frees_the_pages(llm: LLM) -> None:
    async def listen() -> None:
        stream = llm.stream([5, 6, 7], dataclasses.replace(GREEDY, max_tokens=40))
        async for _ in stream:
            break
        await stream.aclose()

    asyncio.run(listen())
    llm.close()
    assert (llm.engine.pool.used, llm.engine.busy) == (0, False)


def test_a_folder_is_opened_and_none_is_refused(tmp_path: Path, lm: LocalLM) -> None:
    save(lm.model, tmp_path / "model")
    lm.tokenizer.save(tmp_path / "model")
    threads = torch.get_num_threads()
    opened = LLM(tmp_path / "model")
    torch.set_num_threads(threads)
    assert texts(opened.generate(PROMPTS, GREEDY)) == [
        one.text for one in lm.generate(PROMPTS, GREEDY.sampling)
    ]
    with pytest.raises(ModelError, match="no such model folder"):
        LLM(tmp_path / "none")
