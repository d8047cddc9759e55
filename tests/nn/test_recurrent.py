"""Recurrent layers: their equations by hand and against `torch.nn`, and what a slot makes them do."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from luban.nn.cache import Recurrent
from luban.nn.recurrent import GRU, LSTM, RNN, Recurrence, initialise_recurrences

UNITS = {RNN: nn.RNN, LSTM: nn.LSTM, GRU: nn.GRU}
every_unit = pytest.mark.parametrize("unit", UNITS)
INPUTS, DIM = 5, 7


def layer_of(unit: type[Recurrence]) -> Recurrence:
    torch.manual_seed(0)
    return unit(INPUTS, DIM)


def weights_of(ours: Recurrence) -> dict[str, Tensor]:
    """By the names that `torch.nn` gives them."""
    return {
        "weight_ih_l0": ours.input.weight,
        "bias_ih_l0": ours.input.bias,
        "weight_hh_l0": ours.recurrent.weight,
        "bias_hh_l0": ours.recurrent.bias,
    }


def texts(batch: int, seq: int) -> Tensor:
    return torch.randn(batch, seq, INPUTS, generator=torch.Generator().manual_seed(seq))


def all_weights(layer: Recurrence, value: float) -> Recurrence:
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(value)
    return layer


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@every_unit
def test_outputs_and_gradients_equal_torch(unit: type[Recurrence]) -> None:
    ours, theirs = layer_of(unit), UNITS[unit](INPUTS, DIM, batch_first=True)
    theirs.load_state_dict({name: weight.detach() for name, weight in weights_of(ours).items()})
    x = texts(3, 9).requires_grad_()
    out, expected = ours(x), theirs(x)[0]
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=0)
    towards = torch.randn_like(out)
    (to_x,) = torch.autograd.grad((out * towards).sum(), x, retain_graph=True)
    (their_x,) = torch.autograd.grad((expected * towards).sum(), x, retain_graph=True)
    torch.testing.assert_close(to_x, their_x, atol=1e-5, rtol=0)
    (out * towards).sum().backward()
    (expected * towards).sum().backward()
    for name, weight in weights_of(ours).items():
        torch.testing.assert_close(weight.grad, theirs.get_parameter(name).grad, atol=1e-5, rtol=1e-5)


def test_an_rnn_step_by_hand() -> None:
    layer = all_weights(RNN(1, 1), 0.5)
    first = math.tanh(0.5 * 2 + 0.5 + 0.5)
    second = math.tanh(0.5 * -1 + 0.5 + 0.5 * first + 0.5)
    assert layer(torch.tensor([[[2.0], [-1.0]]])).flatten().tolist() == pytest.approx([first, second])


def test_an_lstm_step_by_hand() -> None:
    layer = all_weights(LSTM(1, 1), 0.5)
    gate = 0.5 * 2 + 1.0  # all four are alike
    cell = sigmoid(gate) * math.tanh(gate)
    first = sigmoid(gate) * math.tanh(cell)
    gate = 0.5 * -1 + 0.5 * first + 1.0
    cell = sigmoid(gate) * cell + sigmoid(gate) * math.tanh(gate)
    second = sigmoid(gate) * math.tanh(cell)
    assert layer(torch.tensor([[[2.0], [-1.0]]])).flatten().tolist() == pytest.approx([first, second])


def test_a_gru_step_by_hand() -> None:
    layer = all_weights(GRU(1, 1), 0.5)
    mix = reset = sigmoid(0.5 * 2 + 1.0)
    first = (1 - mix) * math.tanh(0.5 * 2 + 0.5 + reset * 0.5)
    mix = reset = sigmoid(0.5 * -1 + 0.5 * first + 1.0)
    second = (1 - mix) * math.tanh(0.5 * -1 + 0.5 + reset * (0.5 * first + 0.5)) + mix * first
    assert layer(torch.tensor([[[2.0], [-1.0]]])).flatten().tolist() == pytest.approx([first, second])


@every_unit
@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4))
@settings(max_examples=10)
def test_any_split_into_chunks_reads_as_the_whole(unit: type[Recurrence], sizes: list[int]) -> None:
    layer, x, slot = layer_of(unit), texts(2, sum(sizes)), Recurrent()
    outputs = []
    for part in x.split(sizes, 1):
        outputs.append(layer(part, slot))
        slot.advance(part.shape[1])
    torch.testing.assert_close(torch.cat(outputs, 1), layer(x))


@every_unit
@given(padding=st.lists(st.integers(0, 5), min_size=3, max_size=3))
@settings(max_examples=10)
def test_padding_on_either_side_leaves_the_state_as_it_is(unit: type[Recurrence], padding: list[int]) -> None:
    layer, x = layer_of(unit), texts(3, 6)
    valid = torch.arange(6) >= torch.tensor(padding)[:, None]
    left, right = Recurrent(valid=valid), Recurrent(valid=valid.flip(1))
    out, _ = layer(x, left), layer(x.flip(1), right)
    for row, pad in enumerate(padding):
        torch.testing.assert_close(out[row, pad:], layer(x[row : row + 1, pad:])[0])
        alone = Recurrent()
        layer(x[row : row + 1, pad:].flip(1), alone)
        for part, expected in zip(right.state or (), alone.state or (), strict=True):
            torch.testing.assert_close(part[row : row + 1], expected)


@every_unit
def test_packed_documents_begin_with_an_empty_state(unit: type[Recurrence]) -> None:
    layer, x = layer_of(unit), texts(2, 7)
    documents = torch.tensor([[0, 0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 0, 0, 1]])
    out = layer(x, Recurrent(documents=documents))
    for row, sizes in enumerate(([3, 2, 2], [6, 1])):
        alone = torch.cat([layer(part) for part in x[row : row + 1].split(sizes, 1)], 1)
        torch.testing.assert_close(out[row : row + 1], alone)


@every_unit
def test_chosen_rows_go_on_from_their_own_states(unit: type[Recurrence]) -> None:
    layer, x, slot = layer_of(unit), texts(3, 5), Recurrent()
    layer(x[:, :4], slot)
    slot.advance(4)
    rows = torch.tensor([2, 0, 2])
    slot.select(rows)
    torch.testing.assert_close(layer(x[rows, 4:], slot), layer(x)[rows, 4:])


@every_unit
def test_first_weights_are_orthogonal_for_states_and_forget_nothing(unit: type[Recurrence]) -> None:
    layer = unit(64, 32)
    initialise_recurrences(layer)
    for gate in layer.recurrent.weight.chunk(layer.gates):
        torch.testing.assert_close(gate @ gate.T, torch.eye(32), atol=1e-5, rtol=0)
    assert layer.input.weight.std().item() == pytest.approx(1 / 8, rel=0.1)
    assert not layer.recurrent.bias.any()
    forgetting = 32 if unit is LSTM else 0
    assert layer.input.bias.sum().item() == forgetting
