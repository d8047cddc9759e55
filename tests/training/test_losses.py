"""The chunked loss: by hand, and equal to PyTorch's in value and gradients."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from luban.data.batch import IGNORED
from luban.training import losses
from luban.training.losses import linear_cross_entropy


def test_the_loss_of_two_equal_logits_is_the_logarithm_of_two() -> None:
    hidden, weight = torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 0.0], [3.0, 5.0]])
    loss = linear_cross_entropy(hidden, weight, torch.tensor([1]))
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("chunk_tokens", [1, 3, 64])
def test_value_and_gradients_equal_those_of_the_whole_logits(chunk_tokens: int, smoothing: float) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(11, 6, requires_grad=True)
    weight = torch.randn(17, 6, requires_grad=True)
    targets = torch.randint(0, 17, (11,))
    targets[2] = targets[10] = IGNORED
    ours = linear_cross_entropy(hidden, weight, targets, chunk_tokens=chunk_tokens, smoothing=smoothing)
    ours_gradients = torch.autograd.grad(3 * ours, (hidden, weight))
    whole = F.cross_entropy(
        hidden @ weight.T, targets, ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing
    )
    gradients = torch.autograd.grad(3 * whole, (hidden, weight))
    torch.testing.assert_close(ours, whole, atol=1e-5, rtol=1e-6)
    for mine, theirs in zip(ours_gradients, gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_a_bias_of_the_head_counts_and_learns() -> None:
    torch.manual_seed(0)
    hidden, weight, bias = (torch.randn(size, requires_grad=True) for size in ((11, 6), (17, 6), (17,)))
    targets = torch.randint(0, 17, (11,))
    ours = linear_cross_entropy(hidden, weight, targets, bias=bias, chunk_tokens=4)
    whole = F.cross_entropy(hidden @ weight.T + bias, targets, reduction="sum")
    torch.testing.assert_close(ours, whole, atol=1e-5, rtol=1e-6)
    ours_gradients = torch.autograd.grad(3 * ours, (hidden, weight, bias))
    for mine, theirs in zip(
        ours_gradients, torch.autograd.grad(3 * whole, (hidden, weight, bias)), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_a_frozen_head_gets_no_gradient_and_the_states_still_do() -> None:
    hidden, weight = torch.randn(4, 6, requires_grad=True), torch.randn(9, 6)
    linear_cross_entropy(hidden, weight, torch.tensor([1, 2, 3, 4])).backward()
    assert hidden.grad is not None
    assert weight.grad is None


def test_only_ignored_targets_give_a_loss_of_zero() -> None:
    hidden, weight = torch.randn(4, 6, requires_grad=True), torch.randn(9, 6, requires_grad=True)
    loss = linear_cross_entropy(hidden, weight, torch.full((4,), IGNORED))
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad is not None
    assert not hidden.grad.any()


def gradients(scale: float) -> tuple[torch.Tensor, ...]:
    """Loss and gradients of a small head, the loss times `scale`."""
    torch.manual_seed(0)
    hidden, weight = (torch.randn(size, requires_grad=True) for size in ((11, 6), (37, 6)))
    loss = linear_cross_entropy(hidden, weight, torch.randint(0, 37, (11,)), chunk_tokens=4, smoothing=0.1)
    return loss, *torch.autograd.grad(scale * loss, (hidden, weight))


def test_a_vocabulary_taken_in_pieces_has_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gradients(1.0)
    monkeypatch.setattr(losses, "PIECE_VOCAB", 10)
    torch.testing.assert_close(gradients(1.0), whole)


def test_the_loss_is_the_same_where_its_softmax_is_not_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = gradients(1.0)
    monkeypatch.setattr(losses, "suits_softmax", lambda *_: False)
    torch.testing.assert_close(gradients(1.0), quick)


def test_a_scaled_loss_has_scaled_gradients() -> None:
    _, *plain = gradients(1.0)
    _, *scaled = gradients(0.25)
    assert all(torch.equal(0.25 * one, other) for one, other in zip(plain, scaled, strict=True))
