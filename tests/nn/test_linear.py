"""The product through oneDNN is `F.linear`, value and derivatives, for any shape."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.nn.linear import Linear, linear

sizes = st.integers(1, 9)


@given(leading=st.lists(sizes, min_size=0, max_size=3), inputs=sizes, outputs=sizes, biased=st.booleans())
@settings(max_examples=30, deadline=None)
def test_values_and_gradients_equal_torch(
    leading: list[int], inputs: int, outputs: int, biased: bool
) -> None:
    torch.manual_seed(0)
    arguments = [torch.randn(*leading, inputs), torch.randn(outputs, inputs)]
    arguments += [torch.randn(outputs)] if biased else []
    ours = [argument.clone().requires_grad_() for argument in arguments]
    theirs = [argument.clone().requires_grad_() for argument in arguments]
    torch.testing.assert_close(linear(*arguments), F.linear(*arguments))
    for function, given_arguments in ((linear, ours), (F.linear, theirs)):
        function(*given_arguments).square().sum().backward()
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, expected.grad, atol=1e-4, rtol=1e-4)


def test_a_frozen_weight_gets_no_gradient_but_passes_one_on() -> None:
    layer, x = Linear(3, 2).requires_grad_(False), torch.randn(4, 3, requires_grad=True)
    layer(x).sum().backward()
    assert layer.weight.grad is None
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(4, 3))


def test_it_can_be_differentiated_twice() -> None:
    x, weight = torch.randn(2, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    (first,) = torch.autograd.grad(linear(x, weight).pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), weight)
    (first,) = torch.autograd.grad(F.linear(x, weight).pow(3).sum(), x, create_graph=True)
    (expected,) = torch.autograd.grad(first.square().sum(), weight)
    torch.testing.assert_close(second, expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_keep_theirs(dtype: torch.dtype) -> None:
    x, weight = torch.randn(2, 3, dtype=dtype), torch.randn(4, 3, dtype=dtype)
    assert torch.equal(linear(x, weight), F.linear(x, weight))


def test_autocast_is_honoured() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(torch.randn(2, 3), torch.randn(4, 3)).dtype == torch.bfloat16


def test_results_repeat_exactly() -> None:
    x, weight = torch.randn(7, 33), torch.randn(65, 33)
    assert torch.equal(linear(x, weight), linear(x, weight))
