"""Scores do not depend on what was read together: one context for many answers, one beginning for all rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from luban.inference import prefix
from luban.inference.prefix import read_rows, shared_length
from luban.inference.score import batches, cut_windows, score_tokens
from luban.models.feedforward import FeedForwardConfig, FeedForwardLM
from luban.models.rnn import RecurrentLM, RNNConfig
from tests import tiny

BEGINNING = [(11 * place) % 97 for place in range(24)]
ROWS = [([*BEGINNING, 5, 6], [7]), ([*BEGINNING, 9], [1, 2, 3]), (BEGINNING, [4, 4]), ([*BEGINNING, 5], [8])]


def rnn() -> Any:
    return RecurrentLM(RNNConfig(model_type="lstm", vocab=384, dim=32, layers=2, context=64))


def feedforward() -> Any:
    return FeedForwardLM(FeedForwardConfig(vocab=384, dim=32, layers=2, context=64))


def windowed() -> Any:
    return tiny.llama(model_type="mistral", window=8)


def counted(model: Any) -> tuple[Any, list[int]]:
    """The model, and a list of how many tokens go through its blocks with each call."""
    plain, sizes = model.hidden, list[int]()

    def hidden(tokens: Any, *rest: Any) -> Any:
        sizes.append(tokens.numel())
        return plain(tokens, *rest)

    model.hidden = hidden
    return model, sizes


@pytest.mark.parametrize("make", [tiny.llama, windowed, tiny.gpt2, tiny.bloom, tiny.mamba, rnn, feedforward])
def test_rows_that_begin_alike_score_as_each_alone(make: Callable[[], Any]) -> None:
    torch.manual_seed(1)
    model = make().eval()
    together = score_tokens(model, ROWS, begin=0)
    for row, found in zip(ROWS, together, strict=True):
        (alone,) = score_tokens(model, [row], begin=0)
        assert found.logps == pytest.approx(alone.logps, abs=1e-4)
        assert found.greedy == alone.greedy


def test_the_beginning_is_read_once_and_the_rest_with_each_row() -> None:
    model, sizes = counted(tiny.llama().eval())
    score_tokens(model, [([*BEGINNING, 5, 6], [7]), ([*BEGINNING, 8, 9], [7])], begin=0)
    assert sizes == [24, 2 * 2]


def test_answers_of_one_token_share_their_contexts_row() -> None:
    model, sizes = counted(tiny.llama().eval())
    pairs = [(BEGINNING, [answer]) for answer in range(50)]
    scores = score_tokens(model, pairs, begin=0)
    assert sizes == [24]
    with torch.inference_mode():
        logps = model(torch.tensor([BEGINNING]))[0, -1].log_softmax(-1)
    assert [score.total for score in scores] == pytest.approx(logps[:50].tolist(), abs=1e-5)


def test_a_short_beginning_is_read_with_each_row() -> None:
    model, sizes = counted(tiny.llama().eval())
    score_tokens(model, [([1, 2, 3], [4]), ([1, 2, 5], [4])], begin=0)
    assert sizes == [6]


def test_a_beginning_goes_no_further_than_the_first_place_asked_for() -> None:
    rows = [(*range(30), 1), (*range(30), 2)]
    assert shared_length(rows) == 30
    _, first = read_rows(tiny.llama().eval(), rows, from_place=20)
    assert first == 20


def test_windows_that_read_the_same_count_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luban.inference.score.BATCH_TOKENS", 2 * len(BEGINNING))
    contexts = [BEGINNING, [*BEGINNING[:-1], 5], [*BEGINNING[:-1], 6]]
    pairs = [(context, [answer]) for answer in range(4) for context in contexts]
    windows = [
        window
        for index, (context, answer) in enumerate(pairs)
        for window in cut_windows(index, context, answer, begin=0, size=64)
    ]
    assert [len(batch) for batch in batches(windows)] == [8, 4]


def test_what_is_worth_sharing_is_a_matter_of_speed_only(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.llama().eval()
    expected = score_tokens(model, ROWS, begin=0)
    monkeypatch.setattr(prefix, "WORTH_SHARING", 1000)
    for plain, shared in zip(score_tokens(model, ROWS, begin=0), expected, strict=True):
        assert shared.logps == pytest.approx(plain.logps, abs=1e-4)
