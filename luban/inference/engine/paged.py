"""Attention over pages: one layer's keys and values in a pool, and rows of any lengths in one pass.

The rows of a step, prompt chunks and single tokens alike, stand one after another in a batch of one, so that
nothing is padded and all layers but attention see plain tokens. Here each row looks at its own past, gathered
from its pages. Its arithmetic is therefore the same whatever else is in the step.

Of the ways to do this without a kernel of our own, a gather and one product per row was the fastest: padding all
rows to the longest took 1.3 to 2.7 times as long at best (16 to 32 rows of 20 to 1000 tokens, one thread), and only
for 8 rows of under 100 tokens a quarter less.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from luban.nn.cache import Bias, Dense, Windowed, attention, causal_attention, causal_mask


@dataclass(frozen=True)
class Row:
    """A job's part of a step: `tokens` that follow `before` others, whose keys lie in `pages`."""

    tokens: list[int]
    before: int
    pages: list[int]


class Layout:
    """Where the rows of a step stand in the batch, and their keys in the pool; all layers share it."""

    def __init__(self, rows: list[Row], *, page_size: int, device: torch.device) -> None:
        self.spans: list[tuple[int, int, int]] = []
        """Of each row: its first place in the batch, its new tokens, the tokens before them."""
        places: list[int] = []
        first = 0
        for row in rows:
            self.spans.append((first, len(row.tokens), row.before))
            first += len(row.tokens)
            ends = range(row.before, row.before + len(row.tokens))
            places += [row.pages[at // page_size] * page_size + at % page_size for at in ends]
        self.places = torch.tensor(places, device=device)
        # An entry that is gone is never looked at: a window hides it. 0 keeps it a valid index.
        self.tables = [torch.tensor([max(0, page) for page in row.pages], device=device) for row in rows]


class PagedSlot:
    """One layer's slot over a pool of pages; see `nn.cache.LayerCache`. `layout` is set before each pass."""

    def __init__(self, like: Dense, *, pages: int, page_size: int) -> None:
        """Pages for what `like` remembers: its heads, dtype, device and window."""
        _, kv_heads, _, head_dim = like.keys.shape
        shape = (pages, page_size, 2, kv_heads, head_dim)
        self.store = torch.zeros(shape, dtype=like.keys.dtype, device=like.keys.device)
        self.window = like.window
        self.layout: Layout | None = None

    def attend(
        self,
        q: Float[Tensor, "1 heads tokens head_dim"],
        k: Float[Tensor, "1 kv_heads tokens head_dim"],
        v: Float[Tensor, "1 kv_heads tokens head_dim"],
        bias: Bias | None = None,
    ) -> Float[Tensor, "1 heads tokens head_dim"]:
        """Remember the new keys and values, then what each row's queries gather from that row."""
        layout = self.layout
        assert layout is not None, "no step is laid out"
        both = torch.stack((k[0], v[0]))  # [2, kv_heads, tokens, head_dim]
        self.store.flatten(0, 1).index_copy_(0, layout.places, both.permute(2, 0, 1, 3))
        gathered = []
        for (first, new, before), table in zip(layout.spans, layout.tables, strict=True):
            asked = q.narrow(2, first, new)
            if before == 0 and new > 1:
                here = k.narrow(2, first, new), v.narrow(2, first, new)
                gathered.append(self._alone(asked, *here, bias))
            else:
                gathered.append(self._with_past(asked, before, table, bias))
        return torch.cat(gathered, 2)

    def advance(self, tokens: int) -> None:
        """Nothing: how long each row is, the scheduler counts."""

    def _alone(self, q: Tensor, k: Tensor, v: Tensor, bias: Bias | None) -> Tensor:
        """A row without past looks at itself."""
        return Windowed(self.window).attend(q, k, v, bias) if self.window else causal_attention(q, k, v, bias)

    def _with_past(self, q: Tensor, before: int, table: Int[Tensor, " pages"], bias: Bias | None) -> Tensor:
        """A row looks at its keys in the pool, from the first one that any of its queries sees."""
        new, page_size = q.shape[2], self.store.shape[1]
        first = max(0, before - self.window + 1) if self.window else 0
        skipped = first // page_size
        pages = self.store.flatten(1).index_select(0, table[skipped:])
        known = pages.view(-1, *self.store.shape[2:])[
            first - skipped * page_size : before + new - skipped * page_size
        ]
        keys, values = known.permute(1, 2, 0, 3)[:, None]  # each [1, kv_heads, end - first, head_dim]
        if new == 1:
            return _one_query(q, keys, values, bias)
        return attention(q, keys, values, causal_mask(new, keys.shape[2], q.device, self.window), bias)


def _one_query(
    q: Float[Tensor, "1 heads 1 head_dim"],
    k: Float[Tensor, "1 kv_heads end head_dim"],
    v: Float[Tensor, "1 kv_heads end head_dim"],
    bias: Bias | None,
) -> Float[Tensor, "1 heads 1 head_dim"]:
    """What the last token sees, all keys given. Heads that share keys are rows of one product, not copies of keys."""
    grouped = q.view(1, k.shape[1], -1, q.shape[3])
    added = None
    if bias is not None:
        behind = torch.arange(k.shape[2] - 1, -1, -1, device=q.device)[None]
        added = bias(behind).to(q.dtype).view(1, k.shape[1], -1, k.shape[2])
    return F.scaled_dot_product_attention(grouped, k, v, attn_mask=added).view_as(q)
