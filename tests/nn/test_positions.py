"""Rotary positions, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from luban.nn.positions import RopeScaling, Rotary, rotate


def test_a_pair_turns_by_its_speed_times_its_position() -> None:
    rotary = Rotary(4, theta=100.0)  # speeds 100**0 = 1 and 100**(-2/4) = 0.1
    x = torch.tensor([1.0, 0.0, 0.0, 2.0])  # pairs are (0, 2) and (1, 3)
    turned = rotate(x.view(1, 1, 1, 4), rotary(torch.tensor([[3]]), torch.float32)).flatten()
    expected = [math.cos(3), -2 * math.sin(0.3), math.sin(3), 2 * math.cos(0.3)]
    torch.testing.assert_close(turned, torch.tensor(expected))


def test_position_zero_changes_nothing() -> None:
    x = torch.randn(2, 3, 1, 8)
    rotation = Rotary(8, theta=10000.0)(torch.zeros(2, 1, dtype=torch.long), torch.float32)
    torch.testing.assert_close(rotate(x, rotation), x)


def test_scores_depend_only_on_distance() -> None:
    rotary = Rotary(8, theta=10000.0)
    q, k = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(0))

    def score(at_q: int, at_k: int) -> float:
        turned = [
            rotate(x, rotary(torch.tensor([[place]]), torch.float32)) for x, place in ((q, at_q), (k, at_k))
        ]
        return (turned[0] * turned[1]).sum().item()

    assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-4)
    assert score(9, 4) != pytest.approx(score(9, 5), abs=1e-4)


def test_linear_scaling_divides_every_speed() -> None:
    plain, slowed = (
        Rotary(8, theta=100.0),
        Rotary(8, theta=100.0, scaling=RopeScaling(kind="linear", factor=4)),
    )
    assert slowed.speeds == pytest.approx([speed / 4 for speed in plain.speeds])


def test_llama3_scaling_slows_only_slow_pairs() -> None:
    # Speeds 1, 0.1, 0.01, 0.001; in an old context of 128 tokens they make 20.4, 2.04, 0.204, 0.0204 turns.
    scaling = RopeScaling(kind="llama3", factor=8, original_context=128)
    speeds = Rotary(8, theta=10000.0, scaling=scaling).speeds
    kept = (128 * 0.1 / (2 * math.pi) - 1) / (4 - 1)  # the second lies between 1 and 4 turns: blended
    assert speeds == pytest.approx([1.0, 0.1 * (kept + (1 - kept) / 8), 0.01 / 8, 0.001 / 8])


def test_angles_stay_exact_in_bfloat16() -> None:
    places = torch.tensor([[10_001]])
    cos, _ = Rotary(4, theta=100.0)(places, torch.bfloat16)
    assert cos[0, 0, 0, 0].item() == pytest.approx(math.cos(10_001), abs=0.01)
