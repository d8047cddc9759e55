"""`y + scale B A x` as one step: the values and gradients of the plain form, with less kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from luban.nn.linear import linear
from luban.peft.added import added


def numbers(*frozen: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    shapes = {"y": (2, 5, 7), "x": (2, 5, 6), "a": (3, 6), "b": (7, 3)}
    return {name: torch.randn(shape).requires_grad_(name not in frozen) for name, shape in shapes.items()}


def plain(y: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    return y + linear(linear(x, a), b) * scale


@pytest.mark.parametrize("frozen", [(), ("x",), ("a",), ("b",), ("y", "x"), ("a", "x")], ids=str)
def test_values_and_gradients_are_those_of_the_plain_form(frozen: tuple[str, ...]) -> None:
    found = []
    for change in (plain, added):
        given = numbers(*frozen)
        result = change(**given, scale=1.5)
        (result * torch.linspace(-1, 2, result.numel()).view_as(result)).sum().backward()
        found.append((result.detach(), {name: value.grad for name, value in given.items()}))
    (expected, gradients), (result, mine) = found
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-6)
    for name, gradient in gradients.items():
        assert (mine[name] is None) == (gradient is None)
        if gradient is not None:
            torch.testing.assert_close(mine[name], gradient, rtol=1e-5, atol=1e-5)


def kept(frozen: tuple[str, ...]) -> list[Tensor]:
    """What is kept for gradients beyond the two matrices."""
    given, found = numbers(*frozen), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: found.append(tensor) or tensor, lambda t: t):
        added(**given, scale=2.0)
    own = {given[name].data_ptr() for name in "ab"}
    return [tensor for tensor in found if tensor.data_ptr() not in own]


def test_the_input_alone_is_kept_and_of_a_frozen_a_the_thin_product() -> None:
    (whole,) = kept(())
    assert torch.equal(whole, numbers()["x"])
    (thin,) = kept(("a",))
    assert thin.shape == (2, 5, 3)


def test_other_types_are_added_in_that_of_the_layer() -> None:
    given = {name: value.detach() for name, value in numbers().items()}
    result = added(given["y"].bfloat16(), given["x"], given["a"], given["b"], 2.0)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.float(), plain(**given, scale=2.0), rtol=0.02, atol=0.05)
