"""Bias, rules that exclude tokens, and typical sampling: by hand, against Hugging Face's, and in whole answers."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process as theirs

from luban.errors import LubanError, PromptError
from luban.inference.beam import generate_beams
from luban.inference.generate import generate_tokens
from luban.inference.sampling import (
    NEVER,
    Sampler,
    add_bias,
    keep_only,
    keep_typical,
    repeated_ends,
    rule_out,
    run_ends,
)
from luban.lm import Generation, Sampling
from tests import tiny
from tests.inference.engine.served import GREEDY, loud

ROW = torch.tensor([2.0, -1.0, 0.5, 4.0])
PROMPT = [5, 300, 17, 8]


@pytest.fixture(scope="module")
def llama() -> Any:
    return loud("llama")


def made(model: Any, sampling: Sampling, stop_ids: frozenset[int] = frozenset()) -> Generation:
    (one,) = generate_tokens(model, [PROMPT], [sampling], tokenizer=tiny.tokenizer(), stop_ids=stop_ids)
    return one


def changed(**changes: Any) -> Sampling:
    return dataclasses.replace(GREEDY, **changes)


def test_a_bias_is_added_to_its_tokens_only() -> None:
    assert add_bias(ROW, {1: 7.5, 3: -4.0}).tolist() == [2.0, 6.5, 0.5, 0.0]


def test_the_rule_that_would_leave_no_token_is_passed_over() -> None:
    assert rule_out(ROW, [0, 3]).tolist() == [NEVER, -1.0, 0.5, NEVER]
    assert rule_out(ROW, [0, 1, 2, 3]).tolist() == ROW.tolist()
    assert keep_only(rule_out(ROW, [0, 3]), [0, 3]).tolist() == [NEVER, -1.0, 0.5, NEVER]


def test_the_last_token_of_a_run_is_excluded_where_the_others_stand_before_it() -> None:
    assert run_ends([4, 7, 8], [[9], [8, 1], [7, 8, 2], [7, 3], [0, 4, 7, 8, 5]]) == {9, 1, 2}


def test_what_would_repeat_a_run_is_what_followed_its_beginning_before() -> None:
    assert repeated_ends([1, 2, 3, 1, 2, 4, 1, 2], 3) == {3, 4}
    assert repeated_ends([1, 2, 3], 1) == {1, 2, 3}
    assert repeated_ends([1, 2], 3) == set()


def test_typical_sampling_keeps_what_is_as_surprising_as_expected() -> None:
    # Surprises of 0.5, 0.25, 0.15, 0.1 in nats: 0.69, 1.39, 1.90, 2.30; their mean 1.21. The nearest is the second.
    row = torch.tensor([0.5, 0.25, 0.15, 0.1]).log()
    assert keep_typical(row, 0.2).isfinite().tolist() == [False, True, False, False]
    assert keep_typical(row, 0.3).isfinite().tolist() == [True, True, False, False]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    vocab=st.integers(4, 40),
    p=st.floats(0.05, 0.98),
    size=st.integers(1, 4),
    ids=st.lists(st.integers(0, 3), min_size=4, max_size=30),
    runs=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3), min_size=1, max_size=2),
)
def test_each_rule_equals_that_of_hugging_face(
    seed: int, vocab: int, p: float, size: int, ids: list[int], runs: list[list[int]]
) -> None:
    torch.manual_seed(seed)
    row, text = torch.randn(vocab) * 3, torch.tensor([ids])
    bias = {seed % vocab: 2.5, (seed + 1) % vocab: -3.0}
    their_bias: Any = {(token,): amount for token, amount in bias.items()}
    pairs: list[tuple[torch.Tensor, Any]] = [
        (keep_typical(row, p), theirs.TypicalLogitsWarper(p)),
        (_without(row, repeated_ends(ids, size)), theirs.NoRepeatNGramLogitsProcessor(size)),
        (_without(row, run_ends(ids, runs)), theirs.NoBadWordsLogitsProcessor(runs, eos_token_id=[99])),
        (add_bias(row, bias), theirs.SequenceBiasLogitsProcessor(their_bias)),
    ]
    for ours, processor in pairs:
        torch.testing.assert_close(ours, processor(text, row[None].clone())[0])


def _without(row: torch.Tensor, ids: set[int]) -> torch.Tensor:
    return row.index_fill(0, torch.tensor(sorted(ids), dtype=torch.long), NEVER)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), least=st.integers(1, 6))
def test_min_tokens_excludes_stop_ids_as_long_as_hugging_face_does(seed: int, least: int) -> None:
    torch.manual_seed(seed)
    sampler = Sampler(Sampling(min_tokens=least), prompt=[1, 2], vocab=8, stop_ids=[3, 5])
    processor: Any = theirs.MinNewTokensLengthLogitsProcessor(2, least, torch.tensor([3, 5]))
    text = [1, 2]
    for _ in range(least + 2):
        row = torch.randn(8)
        expected = processor(torch.tensor([text]), row[None].clone())[0]
        torch.testing.assert_close(sampler._exclude(row), expected)
        text.append(sampler.draw(row))


def test_a_stop_id_of_the_request_ends_its_answer_without_its_text(llama: Any) -> None:
    whole = made(llama, GREEDY)
    stop = whole.tokens[4]
    first = whole.tokens.index(stop)
    ended = made(llama, changed(stop_ids=(stop,)))
    assert (ended.tokens, ended.finish_reason) == (whole.tokens[: first + 1], "stop")
    assert ended.text == tiny.tokenizer().decode(whole.tokens[:first])


def test_an_answer_has_min_tokens_before_an_id_or_a_string_ends_it(llama: Any) -> None:
    whole = made(llama, GREEDY)
    ended = made(llama, changed(min_tokens=7, ignore_eos=False), stop_ids=frozenset(whole.tokens[:3]))
    assert len(ended.tokens) >= 8 or ended.finish_reason == "length"
    assert not set(ended.tokens[:7]) & set(whole.tokens[:3])
    letter = whole.text[0]
    assert made(llama, changed(stop=(letter,))).text == ""
    assert made(llama, changed(stop=(letter,), min_tokens=12)).text == whole.text


def test_no_run_comes_twice_in_prompt_and_answer(llama: Any) -> None:
    tokens = PROMPT + made(llama, changed(no_repeat_ngram=2, max_tokens=50)).tokens
    pairs = list(itertools.pairwise(tokens))
    assert len(set(pairs)) == len(pairs)
    plain = PROMPT + made(llama, changed(max_tokens=50)).tokens
    assert len(set(itertools.pairwise(plain))) < len(plain) - 1, "nothing to be kept from"


def test_an_answer_is_of_the_allowed_ids(llama: Any) -> None:
    assert set(made(llama, changed(allowed_ids=(40, 41, 42))).tokens) <= {40, 41, 42}


def test_a_bias_of_a_hundred_forces_a_token_and_one_of_minus_a_hundred_forbids_it() -> None:
    torch.manual_seed(5)
    quiet = tiny.llama().eval()
    assert set(made(quiet, changed(logit_bias={7: 100.0})).tokens) == {7}
    first = made(quiet, GREEDY).tokens[0]
    assert first not in made(quiet, changed(logit_bias={first: -100.0})).tokens


def test_a_bad_word_never_comes_alone_or_after_a_space(llama: Any) -> None:
    tokenizer = tiny.tokenizer()
    forced = changed(allowed_ids=tuple(tokenizer.encode("the tools")), max_tokens=30, temperature=1, seed=0)
    assert " tool" in made(llama, forced).text
    without = dataclasses.replace(forced, bad_words=("tools", "tool"))
    runs = {tuple(tokenizer.encode(text)) for text in ("tools", " tools", "tool", " tool")}
    tokens = tuple(made(llama, without).tokens)
    assert not [run for run in runs for at in range(len(tokens)) if tokens[at : at + len(run)] == run]


def test_special_tokens_are_in_the_text_where_they_are_asked_for(llama: Any) -> None:
    only = changed(allowed_ids=(1,), max_tokens=2)
    assert made(llama, only).text == ""
    assert made(llama, dataclasses.replace(only, skip_special=False)).text == "<|im_start|><|im_start|>"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logit_bias": {384: 1.0}}, "logit_bias: token 384 is not one of the model's 384"),
        ({"allowed_ids": (999,)}, "allowed_ids: token 999"),
        ({"stop_ids": (500,)}, "stop_ids: token 500"),
        ({"bad_words": ("",)}, "a bad word is empty"),
        ({"min_tokens": 13}, "at least 13 tokens are asked for and at most 12"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(llama: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LubanError, match=message):
        made(llama, changed(**changes))


@pytest.mark.parametrize(
    "values",
    [
        {"typical_p": 0.5},
        {"no_repeat_ngram": 2},
        {"logit_bias": {1: 1.0}},
        {"allowed_ids": (1,)},
        {"bad_words": ("a",)},
        {"stop_ids": (1,)},
        {"min_tokens": 1},
    ],
)
def test_a_rule_is_refused_beside_beams(llama: Any, values: dict[str, Any]) -> None:
    sampling = changed(beams=2, **values)
    with pytest.raises(PromptError, match=f"{next(iter(values))} is .*beam search"):
        generate_beams(llama, [PROMPT], sampling, tokenizer=tiny.tokenizer(), stop_ids=frozenset())
