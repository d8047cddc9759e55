"""State space models: every form of the same system gives the same text."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from luban.nn.ssm import (
    by_convolution,
    by_recurrence,
    by_scan,
    parallel_scan,
    selective_scan,
    selective_step,
    zero_order_hold,
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def system(dim: int, state: int) -> tuple[Tensor, Tensor, Tensor]:
    """A stable system and how it is read, made discrete."""
    a, step = -drawn(dim, state).exp(), drawn(dim, seed=1).exp()
    return *zero_order_hold(a, drawn(dim, state, seed=2), step), drawn(dim, state, seed=3)


def selection(batch: int = 2, seq: int = 13, dim: int = 3, state: int = 4) -> tuple[Tensor, ...]:
    """x, step, a, b, c and a state to begin with."""
    return (
        drawn(batch, seq, dim),
        drawn(batch, seq, dim, seed=1).exp(),
        -drawn(dim, state, seed=2).exp(),
        drawn(batch, seq, state, seed=3),
        drawn(batch, seq, state, seed=4),
        drawn(batch, state, dim, seed=5),
    )


def test_a_held_input_is_integrated_exactly() -> None:
    # h' = -2h + 3x from h = 1 with x = 5 for 0.5 s: h = 7.5 + (1 - 7.5) e^-1, by hand.
    decay, drive = zero_order_hold(torch.tensor([[-2.0]]), torch.tensor([[3.0]]), torch.tensor([0.5]))
    after = decay * 1.0 + drive * 5.0
    assert after.item() == pytest.approx(7.5 - 6.5 / math.e)


def test_zero_order_hold_is_the_papers_formula_of_matrices() -> None:
    a, b, step = -drawn(3, 4).exp(), drawn(3, 4, seed=1), drawn(3, seed=2).exp()
    decay, drive = zero_order_hold(a, b, step)
    for channel in range(3):
        held = step[channel] * torch.diag(a[channel])
        grown = torch.linalg.matrix_exp(held)
        driven = torch.linalg.inv(held) @ (grown - torch.eye(4)) @ (step[channel] * b[channel])
        torch.testing.assert_close(decay[channel], grown.diagonal())
        torch.testing.assert_close(drive[channel], driven)


def test_a_system_that_keeps_everything_sums_its_input() -> None:
    decay, drive = zero_order_hold(torch.zeros(1, 1), torch.ones(1, 1), torch.tensor([0.5]))
    summed = by_recurrence(torch.ones(1, 4, 1), decay, drive, torch.ones(1, 1))
    assert summed.flatten().tolist() == [0.5, 1.0, 1.5, 2.0]


@given(seq=st.integers(1, 40), dim=st.integers(1, 4), state=st.integers(1, 5))
@settings(max_examples=25)
def test_recurrence_convolution_and_scan_are_one_system(seq: int, dim: int, state: int) -> None:
    x = drawn(2, seq, dim, seed=7)
    stepwise = by_recurrence(x, *system(dim, state))
    for other in (by_convolution, by_scan):
        torch.testing.assert_close(other(x, *system(dim, state)), stepwise, atol=1e-10, rtol=1e-10)


def test_a_selective_scan_is_the_recurrence_written_out() -> None:
    x, step, a, b, c, state = selection()
    y, last = selective_scan(x, step, a, b, c, state=state)
    for t in range(x.shape[1]):
        state = (step[:, t, None] * a.t()).exp() * state + b[:, t, :, None] * (step[:, t] * x[:, t])[:, None]
        torch.testing.assert_close(y[:, t], (c[:, t, :, None] * state).sum(1))
    torch.testing.assert_close(last, state)


def test_a_selective_scan_equals_the_parallel_scan() -> None:
    x, step, a, b, c, _ = selection()
    driven = (step * x)[..., None] * b[:, :, None]
    states = parallel_scan((step[..., None] * a).exp(), driven)
    y, last = selective_scan(x, step, a, b, c)
    torch.testing.assert_close(y, (c[:, :, None] * states).sum(-1))
    torch.testing.assert_close(last, states[:, -1].mT)


@pytest.mark.parametrize("chunk", [1, 3, 13, 50])
def test_the_pieces_of_a_scan_do_not_show(chunk: int) -> None:
    x, step, a, b, c, state = selection()
    whole = selective_scan(x, step, a, b, c, state=state)
    torch.testing.assert_close(selective_scan(x, step, a, b, c, state=state, chunk=chunk), whole)


def test_steps_are_the_scan() -> None:
    x, step, a, b, c, state = selection()
    whole, last = selective_scan(x, step, a, b, c, state=state)
    outputs = []
    for t in range(x.shape[1]):
        y, state = selective_step(x[:, t], step[:, t], a, b[:, t], c[:, t], state)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, 1), whole)
    torch.testing.assert_close(state, last)


def test_a_step_of_nothing_leaves_the_state_as_it_is() -> None:
    x, step, a, b, c, state = selection()
    step[:, 4:7] = 0
    _, last = selective_scan(x, step, a, b, c, state=state)
    x, step, b, c = (torch.cat([part[:, :4], part[:, 7:]], 1) for part in (x, step, b, c))
    _, expected = selective_scan(x, step, a, b, c, state=state)
    torch.testing.assert_close(last, expected)


def test_a_token_that_begins_finds_an_empty_state() -> None:
    x, step, a, b, c, state = selection()
    begins = torch.zeros(2, 13, dtype=torch.bool)
    begins[:, 5] = True
    y, _ = selective_scan(x, step, a, b, c, begins=begins, state=state, chunk=4)
    anew, _ = selective_scan(x[:, 5:], step[:, 5:], a, b[:, 5:], c[:, 5:])
    torch.testing.assert_close(y[:, 5:], anew)


@pytest.mark.parametrize("chunk", [1, 4, 0])
def test_gradients_of_the_scan_are_those_of_its_definition(chunk: int) -> None:
    tensors = [part.requires_grad_() for part in selection(seq=7)]
    begins = torch.zeros(2, 7, dtype=torch.bool)
    begins[0, 3] = True

    def scan(
        x: Tensor, step: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        return selective_scan(x, step, a, b, c, begins=begins, state=state, chunk=chunk)

    assert torch.autograd.gradcheck(scan, tensors)
