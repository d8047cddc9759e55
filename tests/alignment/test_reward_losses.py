"""The losses of reward models, and what their report says, by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from luban.alignment.reward_losses import centring, pair_loss, step_loss
from luban.alignment.reward_model import answer_reward
from luban.alignment.reward_report import calibrate, draw, pair_report, step_report


def test_a_pair_costs_the_log_chance_that_the_better_answer_wins() -> None:
    # -log s(2 - 1) = log(1 + 1/e); a draw costs log 2
    losses = pair_loss(torch.tensor([[2.0, 1.0], [0.3, 0.3]]), torch.zeros(2))
    assert losses.tolist() == pytest.approx([math.log(1 + math.exp(-1)), math.log(2)])


def test_a_margin_asks_for_a_higher_reward() -> None:
    losses = pair_loss(torch.tensor([[2.0, 1.0]]), torch.tensor([1.0]))
    assert losses.item() == pytest.approx(math.log(2))


def test_only_the_difference_of_rewards_is_learnt_and_centring_takes_away_the_rest() -> None:
    low, high = torch.tensor([[2.0, 1.0]]), torch.tensor([[12.0, 11.0]])
    assert pair_loss(low, torch.zeros(1)).item() == pytest.approx(pair_loss(high, torch.zeros(1)).item())
    assert centring(low).item() == 9.0
    assert centring(high).item() == 529.0
    assert centring(torch.tensor([[0.5, -0.5]])).item() == 0.0


def test_a_step_costs_the_log_chance_of_its_label() -> None:
    losses = step_loss(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0]))
    assert losses.tolist() == pytest.approx([math.log(1 + math.exp(-1)), math.log(1 + math.e)])


def test_an_answer_is_its_worst_step_or_the_chance_of_all_steps() -> None:
    assert answer_reward([2.0, -1.0, 0.5]) == -1.0
    # two even chances: a quarter for both, whose log-odds are log(1/3)
    assert answer_reward([0.0, 0.0], whole="product") == pytest.approx(math.log(1 / 3))
    assert answer_reward([1.5], whole="product") == pytest.approx(1.5)


def test_calibration_sets_chances_told_beside_the_share_that_was_right() -> None:
    # |log 3| tells 0.75 of all four; three of them are right: calibrated. A draw tells 0.5 and is half right.
    bins, error = calibrate(np.array([math.log(3)] * 3 + [-math.log(3)] + [0.0]))
    assert [(b["told"], b["right"], b["pairs"]) for b in bins] == [
        (pytest.approx(0.5), 0.5, 1),
        (pytest.approx(0.75), 0.75, 4),
    ]
    assert error == pytest.approx(0)


def test_sure_and_wrong_is_badly_calibrated() -> None:
    _, error = calibrate(np.array([-20.0, 20.0]))
    assert error == pytest.approx(0.5, abs=1e-6)


def test_the_report_counts_wins_and_what_length_alone_would_win() -> None:
    rewards = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0], [1.0, 1.0]])
    tokens = np.array([[5.0, 9.0], [3.0, 4.0], [8.0, 2.0], [4.0, 4.0]])
    report = pair_report(rewards, tokens)
    assert report["accuracy"] == pytest.approx(2.5 / 4)
    assert report["accuracy_of_longer"] == pytest.approx(1.5 / 4)
    assert (report["reward_good"], report["reward_bad"]) == (1.25, 1.0)


def test_the_first_wrong_step_is_what_counts_in_a_solution() -> None:
    report = step_report([[1.0, -1.0], [2.0, 2.0], [-1.0, 1.0]], [[1, 0], [1, 1], [1, 0]])
    assert report["accuracy"] == pytest.approx(4 / 6)
    assert report["first_wrong_step_found"] == pytest.approx(2 / 3)
    assert report["accuracy_of_commoner"] == pytest.approx(4 / 6)


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    draw(tmp_path / "r.png", np.array([1.0, 2.0]), np.array([0.0]), [{"told": 0.7, "right": 1.0, "pairs": 1}])
    assert (tmp_path / "r.png").read_bytes()[:4] == b"\x89PNG"
