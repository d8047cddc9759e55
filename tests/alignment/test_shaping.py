"""Rewards by hand: the price of the KL in every token, the score at the last one, scaled by what came before."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from luban.alignment.prompts import Prompt
from luban.alignment.rollout import Answer
from luban.alignment.shaping import RunningMoments, scaled, token_rewards, told_truncated
from tests.alignment.experiences import experience


def test_each_token_pays_for_its_distance_and_the_last_gets_the_score() -> None:
    logps = torch.tensor([[-1.0, -2.0, 0.0], [-1.0, -1.0, -1.0]])
    reference = torch.tensor([[-1.5, -1.0, 0.0], [-1.0, -3.0, -1.0]])
    rewards = token_rewards(
        experience(logps=logps, reference_logps=reference), torch.tensor([10.0, 20.0]), kl_coef=0.1
    )
    torch.testing.assert_close(rewards, torch.tensor([[-0.05, 0.1 + 10, 0.0], [0.0, -0.2, 20.0]]))


@given(st.lists(st.lists(st.floats(-100, 100), max_size=5), min_size=1, max_size=6))
def test_running_moments_are_those_of_all_numbers_at_once(parts: list[list[float]]) -> None:
    moments = RunningMoments()
    for part in parts:
        moments.see(part)
    whole = torch.tensor([number for part in parts for number in part], dtype=torch.float64)
    if len(whole):
        spread = float(whole.std(correction=0))
        assert moments.mean == pytest.approx(float(whole.mean()), abs=1e-9)
        assert moments.deviation == pytest.approx(spread if spread > 1e-8 else 1, abs=1e-6)


def test_scores_are_scaled_by_all_until_now_and_clipped() -> None:
    scores = [1.0, 3.0]  # mean 2, deviation 1
    assert scaled(scores, RunningMoments(), scaling="none", clip=2).tolist() == [1, 2]
    assert scaled(scores, RunningMoments(), scaling="scale", clip=0).tolist() == [1, 3]
    moments = RunningMoments()
    assert scaled(scores, moments, scaling="normalise", clip=0).tolist() == [-1, 1]
    second = scaled([2.0, 6.0], moments, scaling="normalise", clip=0)  # of 1, 3, 2, 6: mean 3, variance 3.5
    torch.testing.assert_close(second, torch.tensor([-1.0, 3.0]) / math.sqrt(3.5))


def test_restored_moments_go_on() -> None:
    one, other = RunningMoments(), RunningMoments()
    one.see([1.0, 5.0])
    other.restore(one.state())
    assert (other.mean, other.deviation) == (3, 2)


def test_a_truncated_answer_gets_what_it_is_told() -> None:
    prompt = Prompt(ids=[1], row={}, where="rows:1")
    told = [
        Answer(prompt=prompt, tokens=[1], logps=[0.0], finished=finished, text="")
        for finished in (True, False)
    ]
    assert told_truncated(told, [3.0, 4.0], reward=-1.0) == [3, -1]
    assert told_truncated(told, [3.0, 4.0], reward=None) == [3, 4]
