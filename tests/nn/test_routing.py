"""Attention within learned clusters, and the k-means that learns them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from luban.errors import ModelError
from luban.nn.cache import attention, causal_attention
from luban.nn.routing import Routing
from tests.nn.peak import PeakBytes


def drawn(seq: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seq)
    return [torch.randn(2, 3, seq, 8, generator=generator).requires_grad_() for _ in range(3)]


def routing(clusters: int, top: int, **more: float) -> Routing:
    torch.manual_seed(0)
    return Routing(heads=3, head_dim=8, clusters=clusters, top=top, **more).eval()


@pytest.mark.parametrize("causal", [False, True])
def test_one_cluster_of_all_is_full_attention(causal: bool) -> None:
    q, k, v = drawn(9)
    out = routing(1, 9)(q, k, v, causal=causal)
    expected = causal_attention(q, k, v) if causal else attention(q, k, v)
    torch.testing.assert_close(out, expected)
    ours, theirs = (torch.autograd.grad((part**2).sum(), (q, k, v)) for part in (out, expected))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("causal", [False, True])
def test_each_cluster_attends_within_itself(causal: bool) -> None:
    q, k, v = drawn(12)
    layer = routing(3, 5)
    out = layer(q, k, v, causal=causal)
    for batch in range(2):
        for head in range(3):
            expected = written_out(layer, q[batch, head], k[batch, head], v[batch, head], head, causal)
            torch.testing.assert_close(out[batch, head], expected)


def written_out(layer: Routing, q: Tensor, k: Tensor, v: Tensor, head: int, causal: bool) -> Tensor:
    """Token by token: for each cluster that took the query, softmax over the keys it took; their mean."""
    total, count = torch.zeros_like(v), torch.zeros(len(q), 1)
    for centroid in layer.centroids[head]:
        queries = (F.normalize(q, dim=-1) @ centroid).topk(layer.top).indices.tolist()
        keys = sorted((F.normalize(k, dim=-1) @ centroid).topk(layer.top).indices.tolist())
        for i in queries:
            seen = [j for j in keys if j <= i or not causal]
            if seen:
                weights = (q[i] @ k[seen].mT / 8**0.5).softmax(-1)
                total[i] = total[i] + weights @ v[seen]
            count[i] += 1
    return total / count.clamp(min=1)


def test_centroids_are_moving_averages_by_hand() -> None:
    layer = Routing(heads=1, head_dim=2, clusters=2, top=1, decay=0.75)
    layer.sums.copy_(torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]))
    layer.counts.copy_(torch.tensor([[1.0, 2.0]]))
    # The first two points are nearest to (1, 0), the third to (0, 1).
    layer.learn(torch.tensor([[[[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]]]))
    assert layer.counts[0].tolist() == pytest.approx([0.75 + 0.25 * 2, 0.75 * 2 + 0.25])
    assert layer.sums[0, 0].tolist() == pytest.approx([0.75 + 0.25 * 1.8, 0.25 * 0.6])
    assert layer.centroids[0, 1].tolist() == pytest.approx([0.0, 1.0])


def test_centroids_find_planted_clusters() -> None:
    generator = torch.Generator().manual_seed(0)
    planted = torch.eye(8)[:4]
    layer = Routing(heads=1, head_dim=8, clusters=4, top=8, decay=0.9)
    layer.sums.copy_(F.normalize(planted + 0.2 * torch.randn(4, 8, generator=generator), dim=-1)[None])
    for _ in range(60):
        points = planted.repeat(16, 1) + 0.1 * torch.randn(64, 8, generator=generator)
        layer.learn(F.normalize(points, dim=-1)[None, None])
    nearness = F.normalize(layer.centroids[0], dim=-1) @ planted.t()
    assert nearness.argmax(-1).tolist() == [0, 1, 2, 3]
    assert nearness.diagonal().min() > 0.98


def test_centroids_move_in_training_only() -> None:
    layer = routing(2, 4)
    before = layer.centroids.clone()
    layer(*drawn(8))
    assert torch.equal(layer.centroids, before)
    layer.train()(*drawn(8))
    assert not torch.equal(layer.centroids, before)


def test_a_query_that_no_cluster_takes_gathers_nothing() -> None:
    q, k, v = drawn(8)
    out = routing(1, 2)(q, k, v)
    assert ((out.abs().sum(-1) > 0).sum(-1) == 2).all()


def test_memory_grows_slower_than_the_square() -> None:
    def peak_bytes(seq: int, clusters: int) -> int:
        layer = Routing(heads=1, head_dim=8, clusters=clusters, top=seq // clusters).eval()
        q, k, v = (part[:1, :1] for part in drawn(seq))
        with PeakBytes() as memory:
            layer(q, k, v).sum().backward()
        return memory.peak

    assert peak_bytes(1024, 32) < 10 * peak_bytes(256, 16)  # seq^1.5 is 8 times, the square 16


def test_a_cluster_larger_than_the_text_is_refused() -> None:
    with pytest.raises(ModelError, match="a cluster takes 9 tokens of 8"):
        routing(2, 9)(*drawn(8))
