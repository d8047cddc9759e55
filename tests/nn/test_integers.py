"""Weights as whole numbers: rounding by hand, kernels against the matrix they stand for, gradients, joined layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from luban.errors import ConfigError
from luban.nn.integers import Bits, IntLinear, rounded
from luban.nn.linear import Linear
from luban.nn.quantize import dequantise, is_quantised, weight_bytes

SETTINGS: list[tuple[Bits, int]] = [(8, 0), (4, 32), (4, 64), (4, 128)]


def layer(bits: Bits, group: int, *, outputs: int = 48, bias: bool = True) -> tuple[nn.Linear, IntLinear]:
    torch.manual_seed(0)
    plain = Linear(128, outputs, bias=bias)
    return plain, IntLinear.of(plain, bits, group)


def test_eight_bits_share_a_scale_by_row() -> None:
    codes, scales = rounded(torch.tensor([[127.0, -64.0, 0.4], [0.0, 0.5, -0.25]]), 8)
    # 0.5 / 127 is no bfloat16 number: the scale is the nearest one.
    near = torch.tensor(0.5 / 127).bfloat16()
    assert codes.tolist() == [[127, -64, 0], [0, 127, round(-0.25 / near.item())]]
    assert scales.flatten().tolist() == [1.0, near.item()]


def test_in_four_bits_the_greatest_of_a_group_is_minus_eight_whatever_its_sign() -> None:
    weights = torch.zeros(1, 64)
    weights[0, :4] = torch.tensor([8.0, -4.0, 1.0, 0.0])
    weights[0, 32:35] = torch.tensor([-16.0, 2.0, 6.0])
    codes, scales = rounded(weights, 4, 32)
    assert scales.tolist() == [[-1.0, 2.0]]
    assert codes[0, :4].tolist() == [-8, 4, -1, 0]
    assert codes[0, 32:35].tolist() == [-8, 1, 3]


def test_a_group_with_one_far_weight_is_cut_where_the_error_is_least() -> None:
    torch.manual_seed(0)
    weights = torch.randn(64, 32)
    codes, scales = rounded(weights, 4, 32)
    whole = weights.gather(1, weights.abs().argmax(1, keepdim=True)) / -8
    uncut = (weights / whole).round().clamp(-8, 7) * whole
    cut = codes * scales.float()
    assert (cut - weights).square().sum() < 0.95 * (uncut - weights).square().sum()


@pytest.mark.parametrize("bits", [8, 4])
def test_a_row_of_zeros_stays_zero(bits: Bits) -> None:
    codes, scales = rounded(torch.zeros(2, 32), bits, 0 if bits == 8 else 32)
    assert not codes.any()
    assert scales.isfinite().all()


def test_groups_that_do_not_fill_a_row_are_refused_with_one_that_does() -> None:
    with pytest.raises(
        ConfigError, match=r"rows of 96 weights do not divide into groups of 64\n.*--group 32"
    ):
        rounded(torch.zeros(4, 96), 4, 64)


@pytest.mark.parametrize(("bits", "group"), SETTINGS)
@pytest.mark.parametrize("outputs", [48, 7])  # four bits have a kernel for multiples of 16
def test_the_layer_computes_what_its_weight_says(bits: Bits, group: int, outputs: int) -> None:
    plain, made = layer(bits, group, outputs=outputs)
    x = torch.randn(3, 5, 128)
    exact = x @ made.weight.t() + plain.bias
    assert made(x).dtype == x.dtype
    assert (made(x) - exact).abs().max() < 0.03 * exact.std()  # the kernels' bfloat16
    assert (made.weight - plain.weight).norm() < (0.01 if bits == 8 else 0.12) * plain.weight.norm()


@pytest.mark.parametrize(("bits", "group"), SETTINGS)
def test_joined_layers_give_what_each_gives(bits: Bits, group: int) -> None:
    first, second = layer(bits, group)[1], layer(bits, group, outputs=16)[1]
    x = torch.randn(2, 128)
    before = first(x), second(x), first.weight
    together = first.join(second)(x)
    assert torch.equal(together[0], before[0])
    assert torch.equal(together[1], before[1])
    assert torch.equal(first.weight, before[2])


@pytest.mark.parametrize(("bits", "group"), SETTINGS)
def test_gradients_go_through_to_the_input(bits: Bits, group: int) -> None:
    _, made = layer(bits, group)
    x = torch.randn(4, 128, requires_grad=True)
    made(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, made.weight.sum(0).expand(4, -1))


@pytest.mark.parametrize(("bits", "group"), SETTINGS)
def test_another_dtype_leaves_the_weight_as_it_is(bits: Bits, group: int) -> None:
    _, made = layer(bits, group)
    before = made.weight
    assert torch.equal(made.to(torch.float16).weight, before)


def test_a_model_tells_its_bytes_and_becomes_floats_again() -> None:
    layers = layer(8, 0, bias=False)[1], layer(4, 32, bias=False)[1]
    model = nn.Sequential(*layers)
    assert is_quantised(model)
    assert weight_bytes(model) == {"quantised": 48 * 128 + 48 * 2 + 48 * 64 + 48 * 4 * 2, "kept": 0}
    weights = [made.weight for made in layers]
    dequantise(model)
    assert not is_quantised(model)
    assert all(torch.equal(plain, weight) for plain, weight in zip(model.parameters(), weights, strict=True))
