"""Attention within buckets of a locality-sensitive hash (Reformer).

Queries serve as keys too. What points the same way mostly falls into the same bucket; sorted by bucket and cut into
chunks, each token compares itself only with its bucket's tokens in its own chunk and the one before. Several
rounds of hashing find what one has missed.

Source: Kitaev et al. 2020, section 2 and appendix A (arXiv:2001.04451).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from luban.errors import ModelError

OWN = -1e5
"""Score of a token against itself: it is attended to only where there is nothing else."""


def hashed(
    x: Float[Tensor, "rows seq head_dim"],
    *,
    buckets: int,
    rounds: int,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "rows rounds seq"]:
    """Each token's bucket in each round: the nearest of `buckets/2` random directions and their opposites."""
    if buckets == 1:
        return torch.zeros(len(x), rounds, x.shape[1], dtype=torch.long, device=x.device)
    if buckets % 2:
        raise ModelError(f"{buckets} buckets; directions come in opposite pairs: give an even number, or 1")
    directions = torch.randn(rounds, x.shape[-1], buckets // 2, generator=generator).to(x)
    projected = torch.einsum("nsd,rdb->nrsb", x, directions)
    return torch.cat([projected, -projected], -1).argmax(-1)


def lsh_attention(
    q: Float[Tensor, "batch heads seq head_dim"],
    v: Float[Tensor, "batch heads seq head_dim"],
    *,
    buckets: int,
    chunk: int,
    rounds: int = 1,
    causal: bool = False,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch heads seq head_dim"]:
    """What each token gathers from those that share a bucket with it, in any round, and are sorted near it.

    A pair that meets in several rounds counts once. Keys are the queries at length 1.
    """
    rows_q, rows_v = q.flatten(0, 1), v.flatten(0, 1)
    seq = q.shape[2]
    with torch.no_grad():
        ids = hashed(rows_q, buckets=buckets, rounds=rounds, generator=generator)
        order = (ids * seq + torch.arange(seq, device=q.device)).argsort(-1)
        chunks = torch.empty_like(order).scatter_(
            -1, order, (torch.arange(seq, device=q.device) // chunk).expand_as(order)
        )
    parts = [
        _round(rows_q, rows_v, order[:, number], ids, chunks, number, chunk=chunk, causal=causal)
        for number in range(rounds)
    ]
    sums = torch.stack([total for _, total in parts])
    shares = sums.softmax(0)  # a round's normaliser among all rounds'
    out = sum(part * share[..., None] for (part, _), share in zip(parts, shares, strict=True))
    assert isinstance(out, Tensor)
    return out.view_as(v)


def _round(
    q: Tensor,
    v: Tensor,
    order: Int[Tensor, "rows seq"],
    ids: Int[Tensor, "rows rounds seq"],
    chunks: Int[Tensor, "rows rounds seq"],
    number: int,
    *,
    chunk: int,
    causal: bool,
) -> tuple[Float[Tensor, "rows seq head_dim"], Float[Tensor, "rows seq"]]:
    """One round's output, and the log of the sum of its weights, in the order of the text."""
    seq, room = q.shape[1], -q.shape[1] % chunk
    sort = order[..., None].expand(-1, -1, q.shape[2])
    here = _chunked(q.gather(1, sort), room, chunk)
    keys, values = (
        _with_previous(F.normalize(here, dim=-1)),
        _with_previous(_chunked(v.gather(1, sort), room, chunk)),
    )
    place = _chunked(order[..., None], room, chunk, fill=-1)[..., 0]  # [rows, count, chunk]
    other = _with_previous(place[..., None], fill=-1)[..., 0]
    with torch.no_grad():
        met = _meetings(place, other, ids, chunks)  # [rows, count, chunk, 2 chunk, rounds]
        mask = met[..., number] & (other >= 0)[:, :, None]
        if causal:
            mask &= other[:, :, None] <= place[..., None]
        own = other[:, :, None] == place[..., None]
        again = met.sum(-1).clamp(min=1).to(q.dtype).log()
    scores = here @ keys.mT / math.sqrt(q.shape[2])
    scores = scores.masked_fill(own, OWN) - again
    scores = scores.masked_fill(~mask & ~own, -torch.inf)
    total = scores.logsumexp(-1)
    out = (scores - total[..., None]).exp() @ values
    back = order.argsort(-1)
    out, total = out.flatten(1, 2)[:, :seq], total.flatten(1, 2)[:, :seq]
    return out.gather(1, back[..., None].expand_as(out)), total.gather(1, back)


def _meetings(
    place: Int[Tensor, "rows count chunk"],
    other: Int[Tensor, "rows count twice"],
    ids: Int[Tensor, "rows rounds seq"],
    chunks: Int[Tensor, "rows rounds seq"],
) -> Bool[Tensor, "rows count chunk twice rounds"]:
    """In which rounds a pair shares a bucket and is sorted into the same chunk or the next."""
    count = place.shape[1]

    def at(table: Tensor, places: Tensor) -> Tensor:
        index = places.clamp(min=0).flatten(1)[:, None].expand(-1, table.shape[1], -1)
        return table.gather(2, index).unflatten(2, (count, -1)).movedim(1, -1)  # [rows, count, ..., rounds]

    same = at(ids, place)[:, :, :, None] == at(ids, other)[:, :, None]
    ahead = at(chunks, place)[:, :, :, None] - at(chunks, other)[:, :, None]
    return same & ((ahead == 0) | (ahead == 1))


def _chunked(x: Tensor, room: int, chunk: int, fill: float = 0) -> Tensor:
    """[rows seq dim] as [rows count chunk dim], the last chunk filled up."""
    return F.pad(x, (0, 0, 0, room), value=fill).unflatten(1, (-1, chunk))


def _with_previous(x: Tensor, fill: float = 0) -> Tensor:
    """Each chunk with the one before it: [rows count 2*chunk dim]."""
    before = F.pad(x, (0, 0, 0, 0, 1, 0), value=fill)[:, :-1]
    return torch.cat([before, x], 2)
