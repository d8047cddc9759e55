"""Slower rotation for longer contexts: by hand, and equal to `transformers`' own functions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from luban.errors import ModelError
from luban.nn.positions import Rotary
from luban.nn.rope_scaling import RopeScaling, dynamic_speeds, ntk_theta, rotation_speeds


def theirs(rope: dict[str, Any], *, length: int | None = None) -> tuple[torch.Tensor, float]:
    """transformers' speeds and attention factor for heads of 32 trained on 256 tokens."""
    config = transformers.LlamaConfig(
        hidden_size=128, num_attention_heads=4, max_position_embeddings=256, rope_parameters=rope
    )
    return ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, None, seq_len=length)


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


def test_yarn_blends_between_the_pairs_that_turn_often_and_seldom() -> None:
    # Pair i of 4 turns 128 * 10**-i / (2 pi) times: 32 times at i = -0.2, once at i = 1.3. The ramp goes from 0
    # (rounded outwards from -0.2, but not below 0) to 2: pair 0 keeps its speed, pair 1 lies in the middle.
    scaling = RopeScaling(kind="yarn", factor=8, original_context=128)
    speeds = rotation_speeds(8, 10000.0, scaling).tolist()
    assert speeds == pytest.approx([1.0, 0.1 * (0.5 + 0.5 / 8), 0.01 / 8, 0.001 / 8])


def test_yarn_makes_queries_and_keys_longer() -> None:
    scaling = RopeScaling(kind="yarn", factor=8, original_context=128)
    rotary = Rotary(8, theta=10000.0, scaling=scaling)
    cos, sin = rotary(torch.tensor([[5]]), torch.float32)
    lengths = (cos**2 + sin**2).sqrt()
    torch.testing.assert_close(lengths, torch.full_like(lengths, 0.1 * math.log(8) + 1))


def test_ntk_slows_the_slowest_pair_by_the_whole_stretch_and_the_fastest_not_at_all() -> None:
    plain, stretched = rotation_speeds(16, 10000.0), rotation_speeds(16, ntk_theta(10000.0, 4.0, 16))
    assert stretched[0] == plain[0]
    assert stretched[-1].item() == pytest.approx(plain[-1].item() / 4)


def test_dynamic_scaling_changes_nothing_within_the_old_context() -> None:
    scaling = RopeScaling(kind="dynamic", factor=4, original_context=64)
    plain, dynamic = Rotary(16, theta=10000.0), Rotary(16, theta=10000.0, scaling=scaling)
    places = torch.arange(64)[None]
    for ours, expected in zip(dynamic(places, torch.float32), plain(places, torch.float32), strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_a_row_of_a_batch_is_scaled_by_its_own_length() -> None:
    scaling = RopeScaling(kind="dynamic", factor=4, original_context=64)
    rotary = Rotary(16, theta=10000.0, scaling=scaling)
    short, long = torch.arange(100), torch.arange(100) + 100
    together = rotary(torch.stack([short, long]), torch.float32)
    for row, places in enumerate((short, long)):
        for ours, alone in zip(together, rotary(places[None], torch.float32), strict=True):
            torch.testing.assert_close(ours[row], alone[0])


@pytest.mark.parametrize(
    ("rope", "scaling"),
    [
        ({"rope_type": "linear", "factor": 4.0}, RopeScaling(kind="linear", factor=4)),
        (
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
            RopeScaling(kind="llama3", factor=8, original_context=64),
        ),
        (
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
            RopeScaling(kind="yarn", factor=4, original_context=64),
        ),
        (
            {
                "rope_type": "yarn",
                "factor": 16.0,
                "original_max_position_embeddings": 4096,
                "beta_fast": 20.0,
                "beta_slow": 2.0,
                "attention_factor": 1.5,
            },
            RopeScaling(
                kind="yarn", factor=16, original_context=4096, beta_fast=20, beta_slow=2, attention_factor=1.5
            ),
        ),
    ],
    ids=["linear", "llama3", "yarn", "yarn with all entries"],
)
def test_speeds_and_strength_equal_transformers(rope: dict[str, Any], scaling: RopeScaling) -> None:
    speeds, strength = theirs({**rope, "rope_theta": 10000.0})
    torch.testing.assert_close(rotation_speeds(32, 10000.0, scaling), speeds, rtol=1e-6, atol=0)
    assert scaling.strength == pytest.approx(strength)


@pytest.mark.parametrize("length", [100, 256, 257, 1000, 4000])
def test_dynamic_speeds_equal_transformers(length: int) -> None:
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    speeds, _ = theirs(rope, length=length)
    scaling = RopeScaling(kind="dynamic", factor=4, original_context=256)
    ours = dynamic_speeds(32, 10000.0, scaling, torch.tensor([float(length)]))
    torch.testing.assert_close(ours[0], speeds, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ({"kind": "yarn", "beta_fast": 1.0}, "beta_fast 1.0 is not above beta_slow 1.0"),
        (
            {"kind": "llama3", "high_freq_factor": 1.0},
            "high_freq_factor 1.0 is not above low_freq_factor 1.0",
        ),
    ],
)
def test_ends_of_a_ramp_in_the_wrong_order_are_refused(numbers: dict[str, Any], told: str) -> None:
    with pytest.raises(ModelError, match=told):
        RopeScaling(factor=2.0, **numbers)
