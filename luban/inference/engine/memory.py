"""What a model remembers of every job, in pages: keys and values of attention, or the states of recurrent layers.

`memory_for` looks at the slots that the model makes for itself and builds the paged kind of each, so that no
family has to know of pages. A recurrent family's page is one whole state, as large for a long text as for a
short one; everything else, copies on writing and swapping included, is the same.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from luban.errors import ModelError
from luban.inference.engine.paged import Layout, PagedSlot, Row
from luban.inference.engine.states import StateMemory
from luban.models.base import CausalLM
from luban.nn.cache import Dense, Recurrent
from luban.peft.opening import places_taken

Saved = list[Any]
"""Pages as they lie on the host, one entry for each layer."""


class Memory(Protocol):
    """The tensors behind a `PagePool`."""

    page_size: int
    window: int
    """Tokens beyond which no layer looks back; 0 if one does."""
    shares: bool
    """Whether a page says the same to every text that begins with its tokens."""

    def forward(self, model: Any, rows: list[Row]) -> Tensor:
        """States of the rows' tokens, one row after another; the tokens are remembered."""
        ...

    def copy(self, source: int, target: int) -> None:
        """Make page `target` what page `source` is."""
        ...

    def save(self, pages: list[int]) -> Saved:
        """A copy of these pages in the host's memory."""
        ...

    def restore(self, saved: Saved, pages: list[int]) -> None:
        """Put back into `pages` what `save` gave."""
        ...


class KeyMemory:
    """Keys and values of a decoder's layers; see `Memory`."""

    shares = True

    def __init__(self, like: list[Dense], *, pages: int, page_size: int) -> None:
        self.page_size = page_size
        self.slots = [PagedSlot(slot, pages=pages, page_size=page_size) for slot in like]
        windows = [slot.window for slot in like]
        self.window = max(windows) if all(windows) else 0

    def forward(self, model: Any, rows: list[Row]) -> Float[Tensor, "tokens dim"]:
        """See `Memory`: all rows in one pass."""
        device = self.slots[0].store.device
        layout = Layout(rows, page_size=self.page_size, device=device)
        for slot in self.slots:
            slot.layout = layout
        tokens = [token for row in rows for token in row.tokens]
        positions = [row.before + place for row in rows for place in range(len(row.tokens))]
        states = model.hidden(
            torch.tensor([tokens], device=device), torch.tensor([positions], device=device), self.slots
        )
        return states[0]

    def copy(self, source: int, target: int) -> None:
        """See `Memory`."""
        for slot in self.slots:
            slot.store[target] = slot.store[source]

    def save(self, pages: list[int]) -> Saved:
        """See `Memory`."""
        return [slot.store[pages].cpu() for slot in self.slots]

    def restore(self, saved: Saved, pages: list[int]) -> None:
        """See `Memory`."""
        for slot, kept in zip(self.slots, saved, strict=True):
            slot.store[pages] = kept.to(slot.store.device)


def page_bytes(model: Any, page_size: int) -> int:
    """Bytes of one page over all layers of an attending model; 0 for a recurrent one."""
    slots = model.make_cache(batch=1, capacity=page_size)
    return sum(slot.keys.nbytes + slot.values.nbytes for slot in slots if isinstance(slot, Dense))


def memory_for(model: Any, *, pages: int, page_size: int) -> Memory:
    """The paged memory of `model`; a recurrent one takes a page for each job, whatever `page_size` says.

    Raises ModelError for a model that the engine cannot run.
    """
    check_servable(model)
    slots = model.make_cache(batch=1, capacity=1)
    if all(isinstance(slot, Recurrent) for slot in slots):
        return StateMemory(layers=len(slots), pages=pages, context=model.config.context)
    return KeyMemory(list(slots), pages=pages, page_size=page_size)


def check_servable(model: Any) -> None:
    """Raise ModelError for what rows side by side would compute differently, or not at all."""
    name = model.config.model_type
    if not isinstance(model, CausalLM):
        raise ModelError(f"the engine serves models that continue a text; '{name}' is none", where="model")
    if places_taken(model):
        what = "the adapter puts learned places before every text, which the engine's rows have no room for"
        raise ModelError(what, where="model", hint="serve a LoRA adapter, or merge this one")
    scaling = getattr(model.config, "rope_scaling", None)  # the LLaMA family's
    if scaling is not None and scaling.kind == "dynamic":
        what = "dynamic RoPE turns by the longest text of a step, so answers would depend on their neighbours"
        raise ModelError(what, where="rope_scaling", hint="linear, yarn or llama3 scaling")
    slots = model.make_cache(batch=1, capacity=1)
    if not all(isinstance(slot, Dense) for slot in slots) and not all(
        isinstance(s, Recurrent) for s in slots
    ):
        kinds = ", ".join(sorted({type(slot).__name__ for slot in slots}))
        raise ModelError(f"the engine has no pages for slots of the kind {kinds}", where=name)
