"""Positions by hand and by identities: rotation, its scalings, xPos, ALiBi."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from luban.nn.cache import Dense, causal_attention
from luban.nn.positions import Rotary, XPos, alibi, alibi_slopes, rotate


def at(*places: int) -> Tensor:
    return torch.tensor([places])


def pair_of_heads(head_dim: int = 8) -> tuple[Tensor, Tensor]:
    q, k = torch.randn(2, 1, 1, 1, head_dim, generator=torch.Generator().manual_seed(0))
    return q, k


def test_a_pair_turns_by_its_speed_times_its_position() -> None:
    rotary = Rotary(4, theta=100.0)  # speeds 100**0 = 1 and 100**(-2/4) = 0.1
    x = torch.tensor([1.0, 0.0, 0.0, 2.0])  # pairs are (0, 2) and (1, 3)
    turned = rotate(x.view(1, 1, 1, 4), rotary(at(3), torch.float32)).flatten()
    expected = [math.cos(3), -2 * math.sin(0.3), math.sin(3), 2 * math.cos(0.3)]
    torch.testing.assert_close(turned, torch.tensor(expected))


def test_position_zero_changes_nothing() -> None:
    x = torch.randn(2, 3, 1, 8)
    rotation = Rotary(8, theta=10000.0)(torch.zeros(2, 1, dtype=torch.long), torch.float32)
    torch.testing.assert_close(rotate(x, rotation), x)


def test_scores_depend_only_on_distance() -> None:
    rotary = Rotary(8, theta=10000.0)
    q, k = pair_of_heads()

    def score(at_q: int, at_k: int) -> float:
        turned = [rotate(x, rotary(at(place), torch.float32)) for x, place in ((q, at_q), (k, at_k))]
        return (turned[0] * turned[1]).sum().item()

    assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-4)
    assert score(9, 4) != pytest.approx(score(9, 5), abs=1e-4)


def test_angles_stay_exact_in_bfloat16() -> None:
    cos, _ = Rotary(4, theta=100.0)(at(10_001), torch.bfloat16)
    assert cos[0, 0, 0, 0].item() == pytest.approx(math.cos(10_001), abs=0.01)


def xpos_score(xpos: XPos, q: Tensor, k: Tensor, at_q: int, at_k: int) -> float:
    queries, _ = xpos(at(at_q), torch.float32)
    _, keys = xpos(at(at_k), torch.float32)
    return (rotate(q, queries) * rotate(k, keys)).sum().item()


@given(near=st.integers(0, 500), distance=st.integers(0, 500), shift=st.integers(0, 5000))
def test_xpos_scores_depend_only_on_distance(near: int, distance: int, shift: int) -> None:
    xpos, (q, k) = XPos(8), pair_of_heads()
    here = xpos_score(xpos, q, k, near + distance, near)
    assert xpos_score(xpos, q, k, near + distance + shift, near + shift) == pytest.approx(here, abs=5e-3)


def test_xpos_fades_a_pair_by_its_decay_per_scale_base() -> None:
    # Pairs 0 and 1 of 2: (0/2 + 0.4)/1.4 and (1/2 + 0.4)/1.4. Both parts of a pair are 1, so a score without
    # rotation would be 2 per pair; at a distance it is 2 cos(speed * distance) times the decay's power.
    xpos, ones = XPos(4, theta=100.0, scale_base=10.0), torch.ones(1, 1, 1, 4)
    score = xpos_score(xpos, ones, ones, 25, 5)
    fast, slow = (0.4 / 1.4) ** 2, (0.9 / 1.4) ** 2  # 20 places are 2 scale bases
    assert score == pytest.approx(2 * math.cos(20) * fast + 2 * math.cos(2) * slow, abs=1e-5)


def test_xpos_without_decay_is_rotation() -> None:
    endless = XPos(8, scale_base=math.inf)
    queries, keys = endless(at(3, 7), torch.float32)
    for ours, rotary in zip(
        queries + keys, Rotary(8, theta=10000.0)(at(3, 7), torch.float32) * 2, strict=True
    ):
        torch.testing.assert_close(ours, rotary)


def test_xpos_keys_can_be_cached() -> None:
    q, k, v = torch.randn(3, 1, 2, 9, 8, generator=torch.Generator().manual_seed(1))
    xpos, places = XPos(8), torch.arange(9)[None]
    queries, keys = xpos(places, torch.float32)
    whole = causal_attention(rotate(q, queries), rotate(k, keys), v)
    slot = Dense(batch=1, kv_heads=2, capacity=9, head_dim=8, dtype=torch.float32, device=torch.device("cpu"))
    for i in range(9):
        queries, keys = xpos(places[:, i : i + 1], torch.float32)
        new = slice(i, i + 1)
        step = slot.attend(rotate(q[:, :, new], queries), rotate(k[:, :, new], keys), v[:, :, new])
        slot.advance(1)
        torch.testing.assert_close(step, whole[:, :, new], atol=1e-5, rtol=1e-5)


def test_alibi_slopes_of_the_paper() -> None:
    assert alibi_slopes(8) == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
    assert alibi_slopes(1) == [1 / 256]


def test_alibi_slopes_between_two_powers_take_every_second_of_the_higher() -> None:
    # 6 heads: the four of 4 heads, 2**(-8 i/4), then the 1st and 3rd of 8 heads.
    assert alibi_slopes(6) == [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8]


@pytest.mark.parametrize("heads", [*range(1, 20), 71])
def test_alibi_slopes_are_distinct_and_as_many_as_heads(heads: int) -> None:
    slopes = alibi_slopes(heads)
    assert len(set(slopes)) == heads
    assert all(0 < slope < 1 for slope in slopes)


def test_alibi_lowers_scores_in_proportion_to_distance() -> None:
    bias = alibi(2)(torch.tensor([[2, 1, 0]]))  # slopes 2**-4 and 2**-8
    expected = torch.tensor([[[-2 / 16, -1 / 16, 0.0]], [[-2 / 256, -1 / 256, 0.0]]])
    assert torch.equal(bias, expected)
