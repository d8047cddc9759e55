"""Layers that read from left to right and carry a state: Elman's RNN, the LSTM, the GRU.

Each says in `step` how a state follows from the one before; `scan` walks a sequence, the same way for all. What
comes from the inputs is computed for all steps at once, so that a step costs one product. Weights lie as in
`torch.nn.RNN`, `LSTM` and `GRU`: `input` is their `weight_ih` and `bias_ih`, `recurrent` their `weight_hh` and
`bias_hh`, the gates stacked in their order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from luban.nn.cache import Recurrent
from luban.nn.linear import Linear

State = tuple[Tensor, ...]
"""What a layer carries on, its output first; each part is [batch, ...]."""


class Recurrence(nn.Module):
    """A recurrent layer of `dim` units over inputs of any width; a subclass is one kind of unit."""

    gates: ClassVar[int]
    """How many numbers a unit computes from the input, and as many from the state, in a step."""
    parts: ClassVar[int] = 1
    """How many tensors its state has."""

    def __init__(self, inputs: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.input = Linear(inputs, self.gates * dim)
        self.recurrent = Linear(dim, self.gates * dim)

    def step(self, x: Float[Tensor, "batch gates_dim"], state: State) -> State:
        """The state after an input, of which `x` is already `input`'s product."""
        raise NotImplementedError

    def forward(
        self, x: Float[Tensor, "batch seq inputs"], slot: Recurrent | None = None
    ) -> Float[Tensor, "batch seq dim"]:
        """The output at each place. `slot` says where to go on from, and keeps where this ended."""
        nothing = (x.new_zeros(len(x), self.dim),) * self.parts
        states = scan(self.step, self.input(x), slot or Recurrent(), nothing)
        return torch.stack([state[0] for state in states], 1)


class RNN(Recurrence):
    """h' = tanh(W x + b + U h + c).

    Source: Elman 1990, "Finding Structure in Time"; as a language model, Mikolov et al. 2010.
    """

    gates = 1

    def step(self, x: Float[Tensor, "batch dim"], state: State) -> State:
        (h,) = state
        return (torch.tanh(x + self.recurrent(h)),)


class LSTM(Recurrence):
    """A cell that is added to, behind gates: c' = f c + i g, h' = o tanh(c').

    Source: Hochreiter and Schmidhuber 1997; the forget gate, Gers et al. 2000.
    """

    gates = 4
    parts = 2

    def step(self, x: Float[Tensor, "batch gates_dim"], state: State) -> State:
        h, cell = state
        i, f, g, o = (x + self.recurrent(h)).chunk(4, -1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        return o.sigmoid() * cell.tanh(), cell


class GRU(Recurrence):
    """A state that a gate mixes with a candidate: h' = (1 - z) n + z h.

    As in `torch.nn`, the reset gate acts on the state's product, after the matrix.

    Source: Cho et al. 2014 (arXiv:1406.1078), section 2.3, where it acts on the state, before the matrix.
    """

    gates = 3

    def step(self, x: Float[Tensor, "batch gates_dim"], state: State) -> State:
        (h,) = state
        x_reset, x_mix, x_new = x.chunk(3, -1)
        h_reset, h_mix, h_new = self.recurrent(h).chunk(3, -1)
        new = torch.tanh(x_new + torch.sigmoid(x_reset + h_reset) * h_new)
        return (torch.lerp(new, h, torch.sigmoid(x_mix + h_mix)),)


def scan(
    step: Callable[[Tensor, State], State],
    inputs: Float[Tensor, "batch seq _"],
    slot: Recurrent,
    empty: State,
) -> list[State]:
    """The state after each of the inputs.

    Goes on from `slot`, or else from `empty`, and leaves the last state there. Padding leaves a state as it is;
    a packed document begins with `empty`.
    """
    seq = inputs.shape[1]
    reads = slot.reads(seq)
    held, begun = _rows_at(None if reads is None else ~reads, seq), _rows_at(slot.begins(), seq)
    state, states = slot.state or empty, []
    for x, hold, begin in zip(inputs.unbind(1), held, begun, strict=True):
        before = state if begin is None else _where(begin, empty, state)
        after = step(x, before)
        state = after if hold is None else _where(hold, before, after)
        states.append(state)
    slot.state = state
    return states


def initialise_recurrences(model: nn.Module) -> None:
    """Draw the weights of all recurrent layers so that signals neither die nor explode at first.

    The state's matrices are orthogonal, the inputs' keep the variance; an LSTM begins by not forgetting.

    Source: Saxe et al. 2014 (arXiv:1312.6120); forget gates at 1, Jozefowicz et al. 2015.
    """
    for layer in model.modules():
        if not isinstance(layer, Recurrence) or layer.input.weight.is_meta:
            continue
        nn.init.normal_(layer.input.weight, std=1 / math.sqrt(layer.input.in_features))
        nn.init.zeros_(layer.input.bias)
        nn.init.zeros_(layer.recurrent.bias)
        with torch.no_grad():
            for gate in layer.recurrent.weight.chunk(layer.gates):
                nn.init.orthogonal_(gate)
            if isinstance(layer, LSTM):
                layer.input.bias.chunk(4)[1].fill_(1.0)


def _rows_at(mask: Bool[Tensor, "batch seq"] | None, seq: int) -> list[Tensor | None]:
    """At each place, which rows are marked [batch, 1]; None where none is."""
    if mask is None:
        return [None] * seq
    return [
        rows[:, None] if some else None
        for rows, some in zip(mask.unbind(1), mask.any(0).tolist(), strict=True)
    ]


def _where(rows: Bool[Tensor, "batch 1"], chosen: State, others: State) -> State:
    """`chosen` in the marked rows, `others` elsewhere."""
    return tuple(torch.where(rows, a, b) for a, b in zip(chosen, others, strict=True))
