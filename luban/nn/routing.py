"""Attention within clusters of content (Routing Transformer).

Queries and keys are points on a sphere; k-means centroids, moving averages of the points they win, route them: each
cluster takes its `top` nearest queries and as many nearest keys, which attend to each other. With about sqrt(seq)
clusters of sqrt(seq) members the cost is seq^1.5.

Source: Roy et al. 2021, section 4 (arXiv:2003.05997); the averages with their counts as van den Oord et al. 2017,
appendix A.1 (arXiv:1711.00937).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from luban.errors import ModelError


class Routing(nn.Module):
    """The centroids of one layer, and attention within their clusters.

    A query that no cluster takes gathers nothing (zeros); one that several take, the mean over them.
    """

    sums: Float[Tensor, "heads clusters head_dim"]
    counts: Float[Tensor, "heads clusters"]

    def __init__(self, *, heads: int, head_dim: int, clusters: int, top: int, decay: float = 0.999) -> None:
        """`decay`: how much of each moving average stays at a step of training."""
        super().__init__()
        self.top, self.decay = top, decay
        self.register_buffer("sums", F.normalize(torch.randn(heads, clusters, head_dim), dim=-1))
        self.register_buffer("counts", torch.ones(heads, clusters))

    @property
    def centroids(self) -> Float[Tensor, "heads clusters head_dim"]:
        return self.sums / self.counts[..., None]

    def forward(
        self,
        q: Float[Tensor, "batch heads seq head_dim"],
        k: Float[Tensor, "batch heads seq head_dim"],
        v: Float[Tensor, "batch heads seq head_dim"],
        *,
        causal: bool = False,
    ) -> Float[Tensor, "batch heads seq head_dim"]:
        """What queries gather within their clusters; in training the centroids move towards what they win.

        Give the same tensor as `q` and `k` where `causal`, as the paper does: a query then finds itself.
        Raises ModelError where a cluster is to take more tokens than there are.
        """
        if self.top > q.shape[2]:
            raise ModelError(f"a cluster takes {self.top} tokens of {q.shape[2]}")
        routed_q, routed_k = (F.normalize(part, dim=-1) for part in (q, k))
        if self.training:
            self.learn(torch.cat([routed_q, routed_k], 2).detach())
        with torch.no_grad():
            queries, keys = self._nearest(routed_q), self._nearest(routed_k)
            mask = keys[..., None, :] <= queries[..., None] if causal else None
        out = _within(_taken(q, queries), _taken(k, keys), _taken(v, keys), mask)
        return _scattered_mean(out, queries, q.shape[2])

    @torch.no_grad()
    def learn(self, points: Float[Tensor, "batch heads points head_dim"]) -> None:
        """One step of k-means: each centroid's sum and count fade and take in the points nearest to it."""
        won = (points @ F.normalize(self.centroids, dim=-1).mT).argmax(-1)
        share = F.one_hot(won, self.counts.shape[1]).to(points.dtype)  # [batch, heads, points, clusters]
        self.sums.lerp_((share.mT @ points).sum(0), 1 - self.decay)
        self.counts.lerp_(share.sum((0, 2)), 1 - self.decay)

    def _nearest(self, points: Tensor) -> Int[Tensor, "batch heads clusters top"]:
        """The places of each cluster's nearest points, in the order of the text."""
        nearness = self.centroids @ points.mT
        return nearness.topk(self.top, -1).indices.sort(-1).values


def _taken(x: Tensor, places: Int[Tensor, "batch heads clusters top"]) -> Tensor:
    """[batch heads clusters top head_dim] of `x` at `places`."""
    index = places.flatten(2)[..., None].expand(-1, -1, -1, x.shape[-1])
    return x.gather(2, index).unflatten(2, places.shape[2:])


def _within(
    q: Tensor, k: Tensor, v: Tensor, mask: Bool[Tensor, "batch heads clusters top top"] | None
) -> Float[Tensor, "batch heads clusters top head_dim"]:
    """Attention of each cluster's queries to its keys; zeros for one that sees none."""
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mask is None:
        return scores.softmax(-1) @ v
    weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)
    return weights.masked_fill(~mask, 0.0) @ v


def _scattered_mean(out: Tensor, places: Tensor, seq: int) -> Tensor:
    """[batch heads seq head_dim]: at each place the mean of what was computed for it."""
    index = places.flatten(2)[..., None]
    count = torch.zeros(*out.shape[:2], seq, 1, dtype=out.dtype, device=out.device)
    count.scatter_add_(2, index, torch.ones_like(index, dtype=out.dtype))
    total = torch.zeros(*out.shape[:2], seq, out.shape[-1], dtype=out.dtype, device=out.device)
    total = total.scatter_add(2, index.expand(-1, -1, -1, out.shape[-1]), out.flatten(2, 3))
    return total / count.clamp(min=1)
