"""Logits processors by hand numbers and against Hugging Face's; the sampler's stream and its distribution."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process as theirs

from luban.inference.sampling import (
    NEVER,
    Sampler,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    log_probability,
    penalize_frequency,
    penalize_presence,
    penalize_repetition,
)
from luban.lm import Sampling

ROW = torch.tensor([2.0, -1.0, 0.5, 4.0])
PROBABILITIES = torch.tensor([0.5, 0.25, 0.15, 0.1])


def draws(sampling: Sampling, logits: torch.Tensor, count: int, prompt: tuple[int, ...] = ()) -> list[int]:
    sampler = Sampler(sampling, prompt=prompt, vocab=len(logits))
    return [sampler.draw(logits) for _ in range(count)]


def test_a_repeated_token_is_divided_if_positive_and_multiplied_if_negative() -> None:
    seen = torch.tensor([True, True, False, False])
    assert penalize_repetition(ROW, seen, 2.0).tolist() == [1.0, -2.0, 0.5, 4.0]


def test_presence_counts_a_token_once_and_frequency_each_time() -> None:
    counts = torch.tensor([0.0, 1.0, 3.0, 0.0])
    assert penalize_presence(ROW, counts, 0.5).tolist() == [2.0, -1.5, 0.0, 4.0]
    assert penalize_frequency(ROW, counts, 0.5).tolist() == [2.0, -1.5, -1.0, 4.0]


def test_top_k_keeps_the_k_likeliest() -> None:
    assert keep_top_k(ROW, 2).tolist() == [2.0, NEVER, NEVER, 4.0]


def test_top_k_beyond_the_vocabulary_keeps_all() -> None:
    assert keep_top_k(ROW, 99).tolist() == ROW.tolist()


@pytest.mark.parametrize(("p", "kept"), [(0.49, 1), (0.51, 2), (0.76, 3), (0.95, 4), (0.01, 1)])
def test_top_p_keeps_the_smallest_set_that_reaches_p(p: float, kept: int) -> None:
    assert keep_top_p(PROBABILITIES.log(), p).isfinite().tolist() == [True] * kept + [False] * (4 - kept)


def test_top_p_sorts_on_where_the_first_guess_does_not_reach_p() -> None:
    flat = torch.zeros(5000)
    assert int(keep_top_p(flat, 0.4999).isfinite().sum()) == 2500


@pytest.mark.parametrize(("share", "kept"), [(0.1, 4), (0.21, 3), (0.4, 2), (0.51, 1), (1.0, 1)])
def test_min_p_drops_what_is_far_below_the_likeliest(share: float, kept: int) -> None:
    assert int(keep_min_p(PROBABILITIES.log(), share).isfinite().sum()) == kept


def test_log_probability_is_the_logarithm_of_softmax() -> None:
    assert log_probability(PROBABILITIES.log() + 7, 1) == pytest.approx(math.log(0.25), abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    vocab=st.integers(2, 60),
    k=st.integers(1, 70),
    p=st.floats(0.01, 0.99),
    share=st.floats(0.01, 1.0),
    penalty=st.floats(0.5, 3.0),
)
def test_each_processor_equals_that_of_hugging_face(
    seed: int, vocab: int, k: int, p: float, share: float, penalty: float
) -> None:
    torch.manual_seed(seed)
    row = torch.randn(vocab) * 3
    ids = torch.randint(vocab, (1, 5))
    seen = torch.zeros(vocab, dtype=torch.bool)
    seen[ids[0]] = True
    pairs: list[tuple[torch.Tensor, Any]] = [
        (keep_top_k(row, k), theirs.TopKLogitsWarper(k)),
        (keep_top_p(row, p), theirs.TopPLogitsWarper(p)),
        (keep_min_p(row, share), theirs.MinPLogitsWarper(share)),
        (penalize_repetition(row, seen, penalty), theirs.RepetitionPenaltyLogitsProcessor(penalty)),
    ]
    for ours, processor in pairs:
        torch.testing.assert_close(ours, processor(ids, row[None].clone())[0])


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    temperature=st.floats(0.2, 3.0),
    k=st.integers(0, 40),
    p=st.floats(0.1, 1.0),
    share=st.floats(0.0, 0.5),
)
def test_the_chain_keeps_what_the_chain_of_hugging_face_keeps(
    seed: int, temperature: float, k: int, p: float, share: float
) -> None:
    torch.manual_seed(seed)
    row = torch.randn(50) * 2
    sampler = Sampler(Sampling(temperature=temperature, top_k=k, top_p=p, min_p=share), prompt=(), vocab=50)
    chain: list[Any] = [theirs.TemperatureLogitsWarper(temperature)]
    chain += [theirs.TopKLogitsWarper(k)] if k else []
    chain += [theirs.TopPLogitsWarper(p)] if p < 1 else []
    chain += [theirs.MinPLogitsWarper(share)] if share else []
    expected = row[None].clone()
    for processor in chain:
        expected = processor(torch.zeros(1, 1, dtype=torch.long), expected)
    torch.testing.assert_close(sampler._shape(row).softmax(-1), expected[0].softmax(-1))


def test_temperature_zero_takes_the_likeliest_and_of_equals_the_first() -> None:
    assert draws(Sampling(temperature=0), ROW, 3) == [3, 3, 3]
    assert draws(Sampling(temperature=0), torch.tensor([1.0, 5.0, 5.0]), 2) == [1, 1]


def test_penalties_work_on_greedy_answers_too() -> None:
    assert draws(Sampling(temperature=0, frequency_penalty=1.5), ROW, 3) == [3, 3, 0]
    assert draws(Sampling(temperature=0, presence_penalty=9), ROW, 4) == [3, 0, 2, 1]
    assert draws(Sampling(temperature=0, repetition_penalty=3), ROW, 1, prompt=(3,)) == [0]


def test_presence_and_frequency_do_not_count_the_prompt() -> None:
    sampling = Sampling(temperature=0, presence_penalty=9, frequency_penalty=9)
    assert draws(sampling, ROW, 1, prompt=(3, 3, 3)) == [3]


def test_the_same_seed_draws_the_same_and_another_seed_something_else() -> None:
    flat = torch.zeros(1000)
    first = draws(Sampling(temperature=1, seed=7), flat, 8)
    assert draws(Sampling(temperature=1, seed=7), flat, 8) == first
    assert draws(Sampling(temperature=1, seed=8), flat, 8) != first


def test_without_a_seed_the_stream_follows_the_process() -> None:
    flat = torch.zeros(1000)
    torch.manual_seed(3)
    first = [draws(Sampling(temperature=1), flat, 4) for _ in range(2)]
    torch.manual_seed(3)
    assert [draws(Sampling(temperature=1), flat, 4) for _ in range(2)] == first
    assert first[0] != first[1]


def test_draws_have_the_frequencies_of_the_probabilities() -> None:
    counts = Counter(draws(Sampling(temperature=1, seed=0), PROBABILITIES.log(), 20_000))
    for token, probability in enumerate(PROBABILITIES.tolist()):
        deviation = math.sqrt(probability * (1 - probability) / 20_000)
        assert abs(counts[token] / 20_000 - probability) < 4 * deviation


def test_a_token_that_is_ruled_out_is_never_drawn() -> None:
    logits = torch.tensor([NEVER, 0.0, NEVER, 0.0, NEVER])
    assert set(draws(Sampling(temperature=1, seed=1), logits, 500)) == {1, 3}


def test_a_tiny_temperature_is_greedy_and_not_infinite() -> None:
    assert draws(Sampling(temperature=1e-30, seed=0), ROW * 1e20, 5) == [3] * 5


def test_drawing_leaves_the_logits_as_they_were() -> None:
    row = ROW.clone()
    everything = Sampling(top_k=2, top_p=0.9, min_p=0.1, repetition_penalty=2, presence_penalty=1, seed=0)
    draws(everything, row, 3)
    assert row.tolist() == ROW.tolist()
