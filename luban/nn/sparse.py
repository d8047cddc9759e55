"""Attention along fixed patterns of places: which blocks of keys each block of queries sees.

A pattern is a small table, [blocks blocks], made of five parts (global, band, dilated, random, block-local) and
their compositions. Keys are gathered block by block, so time and memory grow with the blocks that are seen, never
with the square of the length. With blocks of one token the patterns are those of the papers' pictures.

Source of the parts: Lin et al. 2021, "A Survey of Transformers", section 4.1 (arXiv:2106.04554).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from luban.errors import ModelError
from luban.nn.cache import Bias

Pattern = Bool[Tensor, "blocks blocks"]
"""True where queries of the row's block see keys of the column's."""


def everywhere(blocks: int) -> Pattern:
    """Full attention."""
    return torch.ones(blocks, blocks, dtype=torch.bool)


def global_blocks(blocks: int, count: int) -> Pattern:
    """The first `count` blocks see all and are seen by all."""
    places = torch.arange(blocks)
    return (places[:, None] < count) | (places[None, :] < count)


def band(blocks: int, width: int) -> Pattern:
    """Each block sees the `width` (an odd number) around it: itself and half of the others on each side."""
    return dilated(blocks, width, gap=1)


def dilated(blocks: int, width: int, *, gap: int) -> Pattern:
    """A band with holes: of `width` blocks, `gap` apart, so that it reaches `gap` times as far."""
    if width < 1 or width % 2 == 0:
        raise ModelError(f"a band of width {width} has no middle; give an odd number")
    away = (torch.arange(blocks)[:, None] - torch.arange(blocks)[None, :]).abs()
    return (away <= gap * (width // 2)) & (away % gap == 0)


def random_blocks(blocks: int, count: int, *, seed: int) -> Pattern:
    """Each block sees `count` others, drawn anew for each."""
    if count > blocks:
        raise ModelError(f"{count} random blocks are to be drawn from {blocks}")
    order = torch.rand(blocks, blocks, generator=torch.Generator().manual_seed(seed)).argsort(1)
    return torch.zeros(blocks, blocks, dtype=torch.bool).scatter_(1, order[:, :count], True)


def local_blocks(blocks: int, size: int = 1) -> Pattern:
    """Groups of `size` blocks that see each other and nothing else."""
    group = torch.arange(blocks) // size
    return group[:, None] == group[None, :]


def star_transformer(blocks: int) -> Pattern:
    """A ring's neighbours and one relay through which any two meet.

    Source: Guo et al. 2019 (arXiv:1902.09113).
    """
    return band(blocks, 3) | global_blocks(blocks, 1)


def longformer(blocks: int, *, window: int, count: int, gap: int = 1) -> Pattern:
    """A band, dilated where `gap` is more than 1, and `count` global blocks of the text itself.

    Source: Beltagy et al. 2020, section 3.1 (arXiv:2004.05150).
    """
    return dilated(blocks, window, gap=gap) | global_blocks(blocks, count)


def etc(blocks: int, *, window: int, count: int) -> Pattern:
    """A band over `blocks` of text, and before it `count` blocks of tokens of their own that all see.

    The pattern has `count + blocks` rows: the caller puts the global tokens before the text.

    Source: Ainslie et al. 2020, section 3 (arXiv:2004.08483).
    """
    pattern = global_blocks(count + blocks, count)
    pattern[count:, count:] |= band(blocks, window)
    return pattern


def bigbird(blocks: int, *, window: int, count: int, random: int, seed: int = 0) -> Pattern:
    """A band, `count` global blocks and `random` blocks for each.

    Source: Zaheer et al. 2020, section 2 (arXiv:2007.14062).
    """
    drawn = random_blocks(blocks, random, seed=seed)
    return band(blocks, window) | global_blocks(blocks, count) | drawn


def blocks_of(seq: int, block: int) -> int:
    """How many blocks of `block` tokens `seq` tokens take."""
    return -(-seq // block)


def dense_mask(pattern: Pattern, *, seq: int, block: int, causal: bool = False) -> Bool[Tensor, "seq seq"]:
    """The pattern token by token: what `sparse_attention` computes without ever making it."""
    mask = pattern.repeat_interleave(block, 0).repeat_interleave(block, 1)[:seq, :seq]
    return mask.tril() if causal else mask


def sparse_attention(
    q: Float[Tensor, "batch heads seq head_dim"],
    k: Float[Tensor, "batch kv_heads seq head_dim"],
    v: Float[Tensor, "batch kv_heads seq head_dim"],
    pattern: Pattern,
    *,
    block: int,
    causal: bool = False,
) -> Float[Tensor, "batch heads seq head_dim"]:
    """What each query gathers from the blocks that `pattern` lets its own see; `causal`: and not ahead of it.

    Raises ModelError where the pattern is not one of this length, or leaves a block nothing to see.
    """
    batch, heads, seq, head_dim = q.shape
    blocks = blocks_of(seq, block)
    pattern = _checked(pattern, blocks, seq, causal)
    k, v = (part.repeat_interleave(heads // part.shape[1], 1) for part in (k, v))
    room = blocks * block - seq
    q, k, v = (F.pad(part, (0, 0, 0, room)).reshape(-1, blocks, block, head_dim) for part in (q, k, v))
    gathered = []
    for queries, keys, listed in _degrees(pattern):
        mask = _mask(queries, keys, listed, seq=seq, block=block, causal=causal)
        gathered.append((queries, _attend(q, k, v, queries, keys, mask)))
    order = torch.cat([queries for queries, _ in gathered])
    out = torch.cat([part for _, part in gathered], 1)[:, order.argsort()]
    return out.reshape(batch, heads, -1, head_dim)[:, :, :seq]


class BlockSparse:
    """A slot of causal attention along a pattern, for any decoder's blocks; remembers nothing."""

    def __init__(self, pattern: Pattern, *, block: int) -> None:
        self.pattern, self.block = pattern, block

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Bias | None = None) -> Tensor:
        """See `LayerCache`; raises ModelError for scores that depend on distance, which it has no room for."""
        if bias is not None:
            raise ModelError("attention by blocks takes no bias by distance")
        return sparse_attention(q, k, v, self.pattern, block=self.block, causal=True)


def _checked(pattern: Pattern, blocks: int, seq: int, causal: bool) -> Pattern:
    if pattern.shape != (blocks, blocks):
        raise ModelError(
            f"a pattern of {' x '.join(map(str, pattern.shape))} blocks for {seq} tokens, which are {blocks}"
        )
    pattern = pattern.tril() if causal else pattern
    own = pattern.diagonal() if causal else pattern.any(1)
    if not own.all():
        which = int((~own).nonzero()[0])
        lack = "sees not itself" if causal else "sees nothing"
        raise ModelError(f"block {which} of the pattern {lack}: its queries would be left with nothing")
    return pattern


def _degrees(
    pattern: Pattern,
) -> Iterator[tuple[Int[Tensor, " rows"], Int[Tensor, "rows seen"], Bool[Tensor, "rows seen"]]]:
    """Blocks of queries grouped by how many blocks they see, up to the next power of two.

    With each group: the blocks seen, and which of them are more than filling. A few rows that see everything
    (global ones) so cost the others nothing.
    """
    seen = pattern.sum(1)
    size = 2 ** seen.log2().ceil().long()
    for group in size.unique().tolist():
        queries = (size == group).nonzero()[:, 0]
        most = int(seen[queries].max())
        keys = pattern[queries].long().argsort(dim=1, descending=True, stable=True)[:, :most]
        yield queries, keys, torch.arange(most) < seen[queries, None]


def _mask(
    queries: Tensor, keys: Tensor, listed: Tensor, *, seq: int, block: int, causal: bool
) -> Bool[Tensor, "rows block gathered"]:
    """Which of the gathered keys each query of each row sees."""
    inside = torch.arange(block)
    places = (keys[..., None] * block + inside).flatten(1)[:, None]  # [rows, 1, seen * block]
    mask = listed.repeat_interleave(block, 1)[:, None] & (places < seq)
    if not causal:
        return mask.expand(-1, block, -1)
    return mask & (places <= (queries[:, None] * block + inside)[..., None])


def _attend(q: Tensor, k: Tensor, v: Tensor, queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
    """[batch rows block head_dim] gathered from the rows' own lists of blocks."""
    rows, seen = keys.shape
    taken = keys.flatten().to(k.device)
    k, v = (part.index_select(1, taken).unflatten(1, (rows, seen)).flatten(2, 3) for part in (k, v))
    return F.scaled_dot_product_attention(
        q.index_select(1, queries.to(q.device)), k, v, attn_mask=mask[None].to(q.device)
    )
