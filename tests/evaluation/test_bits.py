"""Bits per byte and its baselines, from numbers small enough to work out by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from luban.data.document import Document
from luban.evaluation.baselines import BigramCounts, baseline_bits
from luban.evaluation.bits import bits, model_bits
from luban.lm import Conversation, Generation, Sampling, Score
from tests import tiny


class HalfBit:
    """A language model that gives every byte half a bit, one token a byte."""

    name = "half a bit"

    def generate(self, prompts: Sequence[str], sampling: Sampling) -> list[Generation]:
        raise NotImplementedError

    def chat(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Generation]:
        raise NotImplementedError

    def stream(self, conversation: Conversation, sampling: Sampling) -> Iterator[str]:
        raise NotImplementedError

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[Score]:
        return [Score(logps=[-math.log(2) / 2] * len(text.encode()), greedy=False) for _, text in pairs]


def documents(*texts: str) -> list[Document]:
    return [Document(id=str(i), text=text, source="test") for i, text in enumerate(texts)]


def test_a_model_of_half_a_bit_a_byte_has_half_a_bit_per_byte() -> None:
    found = model_bits(HalfBit(), documents("abcd", "鲁班"))
    assert found.per_byte == pytest.approx(0.5)
    assert (found.bytes, found.tokens) == (4 + 6, 10)
    assert found.perplexity == pytest.approx(math.sqrt(2))
    assert found.low == pytest.approx(0.5) == found.high


def test_bits_are_summed_before_they_are_divided() -> None:
    found = bits(nats=[math.log(2) * 8, 0.0], sizes=[1, 3], tokens=4)
    assert found.per_byte == pytest.approx(2.0)
    assert found.low <= found.per_byte <= found.high


def test_bigram_probabilities_follow_witten_and_bell() -> None:
    counts = BigramCounts([np.array([0, 1, 2, 1, 1])], vocab=3)
    # Words after the first: 1 2 1 1, so with one added p(1) = 4/7 and p(2) = 2/7.
    # After 1 come 2 and 1: c(1) = 2, t(1) = 2, so p(2 | 1) = (1 + 2 * 2/7) / 4 = 11/28.
    assert counts.unigram == pytest.approx([1 / 7, 4 / 7, 2 / 7])
    assert counts.bigram(np.array([1]), np.array([2])) == pytest.approx([11 / 28])
    # After 0 only 1 was seen, once: p(2 | 0) = (0 + 1 * 2/7) / 2.
    assert counts.bigram(np.array([0]), np.array([2])) == pytest.approx([1 / 7])


@pytest.mark.parametrize("history", [0, 1, 2, 3])
def test_bigram_probabilities_sum_to_one_after_any_history(history: int) -> None:
    counts = BigramCounts([np.array([0, 1, 2, 1, 1, 2])], vocab=4)
    words = np.arange(4)
    assert counts.bigram(np.full(4, history), words).sum() == pytest.approx(1.0)


def test_uniform_costs_the_logarithm_of_the_vocabulary_and_each_baseline_beats_the_one_before() -> None:
    tokenizer = tiny.tokenizer()
    held_out = documents("the tools were good. The capital of France is Paris.")
    found = baseline_bits(tokenizer, documents(*tiny.TEXTS), held_out)
    tokens, size = len(tokenizer.encode(held_out[0].text)), len(held_out[0].text)
    assert found["uniform"].per_byte == pytest.approx(tokens * math.log2(tokenizer.vocab_size) / size)
    assert found["uniform"].per_byte > found["unigram"].per_byte > found["bigram"].per_byte
