"""Element-wise chains in one pass, against PyTorch's operations in float64; and what a product keeps of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from luban.nn import passes
from luban.nn.linear import Linear
from luban.nn.mlp import GatedMLP
from luban.nn.norms import RMSNorm
from luban.nn.passes import rms_norm, softmax_losses, swiglu, turn
from tests.nn.saved import bytes_saved

Chain = Callable[..., Tensor]

needs_kernels = pytest.mark.skipif(
    not passes.KERNELS.available(),
    reason="no C++ compiler or no OpenMP here: PyTorch's operations are used",
)
SHAPES = [(3, 5, 37), (4, 64), (1, 1), (150, 3), (2, 70, 384)]
"""Rows that do and do not fill vectors and tasks."""


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def torch_norm(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, weight.shape, weight, 1e-6)


def our_norm(x: Tensor, weight: Tensor) -> Tensor:
    return rms_norm(x, weight, 1e-6)


def torch_swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return F.silu(gate) * up


def torch_turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin


CHAINS = {"norm": (our_norm, torch_norm), "swiglu": (swiglu, torch_swiglu)}


def arguments(chain: str, shape: tuple[int, ...]) -> list[Tensor]:
    return [drawn(*shape), drawn(*(shape[-1:] if chain == "norm" else shape), seed=1)]


def gradients(chain: Chain, given: list[Tensor], *, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """The chain's value and its gradients."""
    inputs = [each.detach().to(dtype).requires_grad_() for each in given]
    made = chain(*inputs)
    upstream = drawn(*made.shape, seed=2).detach().to(dtype)
    return [made, *torch.autograd.grad(made, inputs, upstream)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("chain", CHAINS)
def test_values_and_gradients_are_those_of_the_single_operations(chain: str, shape: tuple[int, ...]) -> None:
    ours, theirs = CHAINS[chain]
    given = arguments(chain, shape)
    expected = gradients(theirs, given, dtype=torch.float64)
    for mine, right in zip(gradients(ours, given), expected, strict=True):
        torch.testing.assert_close(mine.double(), right, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("chain", CHAINS)
def test_without_kernels_they_are_the_same(chain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = CHAINS[chain]
    quick = gradients(ours, arguments(chain, (2, 70, 33)))
    monkeypatch.setattr(passes, "_suits", lambda *_: False)
    torch.testing.assert_close(gradients(ours, arguments(chain, (2, 70, 33))), quick, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("chain", CHAINS)
def test_they_can_be_differentiated_twice(chain: str) -> None:
    ours, _ = CHAINS[chain]
    inputs = [each.detach().double().requires_grad_() for each in arguments(chain, (3, 5))]
    assert torch.autograd.gradgradcheck(ours, inputs)


def test_a_gradient_of_a_gradient_goes_through_what_is_made_again() -> None:
    x, norm, product = drawn(6, 8), RMSNorm(8, eps=1e-6), Linear(8, 3, bias=False)

    def second(norm_of: Chain) -> Tensor:
        value = product(norm_of(x)).pow(3).sum()
        (first,) = torch.autograd.grad(value, product.weight, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0]

    expected = second(lambda x: torch_norm(x, norm.weight))
    torch.testing.assert_close(second(norm), expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_rotation_and_its_gradient_are_those_of_the_single_operations(batch: int) -> None:
    tables = [drawn(batch, 1, 7, 20, seed=seed).detach() for seed in (1, 2)]

    def through(chain: Chain) -> list[Tensor]:
        x = drawn(2, 7, 3, 20)
        made = chain(x.transpose(1, 2), *tables)
        return [made, *torch.autograd.grad(made, x, drawn(2, 3, 7, 20, seed=3))]

    torch.testing.assert_close(through(turn), through(torch_turn), atol=1e-6, rtol=1e-5)


@needs_kernels
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("vocab", [2, 37, 400])
def test_a_softmax_gives_losses_and_turns_logits_into_their_gradient(vocab: int, smoothing: float) -> None:
    logits, targets = drawn(9, vocab).detach() * 20, torch.arange(9) % vocab
    exact = logits.double().requires_grad_()
    expected = F.cross_entropy(exact, targets, reduction="none", label_smoothing=smoothing)
    unchanged = softmax_losses(logits, targets, gradient=False, smoothing=smoothing)
    losses = softmax_losses(logits, targets, gradient=True, smoothing=smoothing)
    assert torch.equal(losses, unchanged)
    torch.testing.assert_close(losses.double(), expected, atol=1e-5, rtol=1e-6)
    (gradient,) = torch.autograd.grad(expected.sum(), exact)
    torch.testing.assert_close(logits.double(), gradient, atol=1e-6, rtol=0)


@needs_kernels
def test_a_loss_that_is_not_a_number_is_not_hidden() -> None:
    for place in (0, 5, 36):
        logits = torch.zeros(2, 37)
        logits[1, place] = float("nan")
        losses = softmax_losses(logits, torch.zeros(2, dtype=torch.int64), gradient=True, smoothing=0.0)
        assert losses[0].isfinite()
        assert losses[1].isnan()


@pytest.mark.parametrize("chain", CHAINS)
def test_the_number_of_threads_changes_no_bit(chain: str) -> None:
    before, given, found = torch.get_num_threads(), arguments(chain, (3, 500, 40)), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(gradients(CHAINS[chain][0], given))
    torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


@needs_kernels
def test_a_norm_and_two_products_keep_the_norms_input_and_a_number_for_each_row() -> None:
    x, norm, layers = drawn(50, 64), RMSNorm(64, eps=1e-6), [Linear(64, 8, bias=False) for _ in range(2)]
    assert bytes_saved(lambda: [layer(norm(x)) for layer in layers], norm, *layers) == 4 * (50 * 64 + 2 * 50)


@needs_kernels
def test_a_gated_mlp_keeps_gate_and_up() -> None:
    x, mlp = drawn(50, 16), GatedMLP(16, 40)
    assert bytes_saved(lambda: mlp(x), mlp) == 4 * 50 * (16 + 2 * 40)


def test_what_was_changed_in_place_is_kept_as_it_is() -> None:
    x, norm, product = drawn(5, 8), RMSNorm(8, eps=1e-6), Linear(8, 3, bias=False)
    changed = norm(x)
    changed.mul_(2.0)
    product(changed).sum().backward()
    expected = torch.ones(5, 3).t() @ (2 * torch_norm(x, norm.weight))
    torch.testing.assert_close(product.weight.grad, expected, atol=1e-5, rtol=1e-5)


def test_a_graph_that_is_kept_gives_its_gradients_again() -> None:
    x, mlp = drawn(5, 8), GatedMLP(8, 12)
    value = mlp(x).square().sum()
    weights = list(mlp.parameters())
    first = torch.autograd.grad(value, weights, retain_graph=True)
    assert all(
        torch.equal(one, two) for one, two in zip(first, torch.autograd.grad(value, weights), strict=True)
    )


def test_half_precision_is_as_it_was() -> None:
    x, mlp = drawn(5, 8), GatedMLP(8, 12)

    def under_autocast(function: Chain) -> list[Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            made = function(x)
        return [made, *torch.autograd.grad(made.float().square().sum(), [x, *mlp.parameters()])]

    def plainly(x: Tensor) -> Tensor:
        return mlp.down(F.silu(mlp.gate(x)) * mlp.up(x))

    for mine, theirs in zip(under_autocast(mlp), under_autocast(plainly), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.slow
def test_compiled_a_gated_mlp_after_a_norm_is_the_same() -> None:
    torch.compiler.reset()
    x, both = drawn(5, 8), torch.nn.Sequential(RMSNorm(8, eps=1e-6), GatedMLP(8, 12))
    compiled: Any = torch.compile(both)
    torch.testing.assert_close(compiled(x), both(x))
    found, expected = (
        torch.autograd.grad(each(x).square().sum(), [x, *both.parameters()]) for each in (compiled, both)
    )
    torch.testing.assert_close(found, expected)
