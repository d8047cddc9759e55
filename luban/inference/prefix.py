"""What all rows of a batch begin with is read once: examples shown before every question, a long instruction.

The first part fills a cache of one row, the cache is repeated, and each row goes on with its own rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

WORTH_SHARING = 16
"""A beginning of fewer tokens is read with each row: two passes over the blocks cost more than it does."""


def read_rows(
    model: Any, rows: Sequence[tuple[int, ...]], *, from_place: int
) -> tuple[Float[Tensor, "rows seq dim"], int]:
    """States of the rows, padded on the right, and the place of the first state given.

    That place is `from_place` or earlier; what stands before it in all rows may have been read only once.
    """
    device = model.embedding.weight.device
    shared = min(shared_length(rows), from_place)
    if len(rows) == 1 or shared < WORTH_SHARING:
        return model.hidden(_padded(rows, device)), 0
    longest = max(map(len, rows))
    cache = model.make_cache(batch=1, capacity=longest)
    model.hidden(torch.tensor([rows[0][:shared]], device=device), None, cache)
    for slot in cache:
        slot.advance(shared)
        slot.select(torch.zeros(len(rows), dtype=torch.int64, device=device))
    tokens = _padded([row[shared:] for row in rows], device)
    positions = torch.arange(shared, longest, device=device).expand_as(tokens)
    return model.hidden(tokens, positions, cache), shared


def shared_length(rows: Sequence[tuple[int, ...]]) -> int:
    """How many tokens all `rows` begin with: as many as the first and the last of them in order."""
    pairs = zip(min(rows), max(rows), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _padded(rows: Sequence[tuple[int, ...]], device: torch.device) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
