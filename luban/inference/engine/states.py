"""Recurrent families in the engine: a page is one text's whole state, and rows of one token go through together.

A row that reads several tokens goes alone, since a scan over texts of unlike lengths would have to be padded.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from luban.inference.engine.paged import Row
from luban.nn.cache import Recurrent

State = tuple[Tensor, ...]
"""What one layer carries on, the batch first."""


class StateMemory:
    """The states of a model's layers, one page for each text; see `memory.Memory`."""

    window = 0
    shares = False  # a state is of one place in the text, and the next token replaces it

    def __init__(self, *, layers: int, pages: int, context: int) -> None:
        self.page_size = context + 1  # so that a text never needs a second page
        self.layers = layers
        self.states: list[list[State | None]] = [[None] * pages for _ in range(layers)]

    def forward(self, model: Any, rows: list[Row]) -> Float[Tensor, "tokens dim"]:
        """See `Memory`: rows of one token in one pass, each longer one in its own."""
        together = [place for place, row in enumerate(rows) if len(row.tokens) == 1 and row.before]
        groups = [[place] for place in range(len(rows)) if place not in together]
        made: dict[int, Tensor] = {}
        for group in [*groups, *([together] if together else [])]:
            states = self._pass(model, [rows[place] for place in group])
            made |= dict(zip(group, states, strict=True))
        return torch.cat([made[place] for place in range(len(rows))])

    def copy(self, source: int, target: int) -> None:
        """See `Memory`; a state is never changed in place, so both pages may hold the same one."""
        for layer in self.states:
            layer[target] = layer[source]

    def save(self, pages: list[int]) -> list[Any]:
        """See `Memory`."""
        return [[_to(layer[page], torch.device("cpu")) for page in pages] for layer in self.states]

    def restore(self, saved: list[Any], pages: list[int]) -> None:
        """See `Memory`; the next pass brings the state to the model's device."""
        for layer, kept in zip(self.states, saved, strict=True):
            for page, state in zip(pages, kept, strict=True):
                layer[page] = state

    def _pass(self, model: Any, rows: list[Row]) -> Tensor:
        """[rows, seq, dim] of rows of one length, all of which are new or none."""
        device = model.embedding.weight.device
        slots = [Recurrent() for _ in range(self.layers)]
        if rows[0].before:
            for slot, layer in zip(slots, self.states, strict=True):
                slot.state = _joined([layer[row.pages[0]] for row in rows], device)
        tokens = torch.tensor([row.tokens for row in rows], device=device)
        starts = torch.tensor([[row.before] for row in rows], device=device)
        states = model.hidden(tokens, starts + torch.arange(tokens.shape[1], device=device), slots)
        for slot, layer in zip(slots, self.states, strict=True):
            assert slot.state is not None, "a layer carried nothing on"
            for place, row in enumerate(rows):
                layer[row.pages[0]] = tuple(part[place : place + 1].clone() for part in slot.state)
        return states


def _joined(states: list[State | None], device: torch.device) -> State:
    known = [state for state in states if state is not None]
    assert len(known) == len(states), "a text goes on that was not begun"
    return tuple(torch.cat(parts).to(device) for parts in zip(*known, strict=True))


def _to(state: State | None, device: torch.device) -> State | None:
    return None if state is None else tuple(part.to(device) for part in state)
