"""Attention by blocks: the patterns as their papers draw them, and the sums without the square."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from luban.errors import ModelError
from luban.nn import sparse
from luban.nn.cache import attention, causal_attention
from luban.nn.sparse import BlockSparse, Pattern, blocks_of, dense_mask, sparse_attention
from tests import tiny
from tests.nn.peak import PeakBytes

PATTERNS: dict[str, Callable[[int], Pattern]] = {
    "everywhere": sparse.everywhere,
    "local": sparse.local_blocks,
    "local pairs": lambda blocks: sparse.local_blocks(blocks, 2),
    "band": lambda blocks: sparse.band(blocks, 3),
    "dilated": lambda blocks: sparse.dilated(blocks, 3, gap=2),
    "global and own": lambda blocks: sparse.global_blocks(blocks, 1) | sparse.local_blocks(blocks),
    "random and own": lambda blocks: sparse.random_blocks(blocks, 1, seed=3) | sparse.local_blocks(blocks),
    "star": sparse.star_transformer,
    "longformer": lambda blocks: sparse.longformer(blocks, window=3, count=1),
    "dilated longformer": lambda blocks: sparse.longformer(blocks, window=3, count=1, gap=2),
    "etc": lambda blocks: sparse.etc(blocks - 1, window=3, count=1),
    "bigbird": lambda blocks: sparse.bigbird(blocks, window=3, count=1, random=1),
}


def heads(seq: int, *, count: int = 4, kv_heads: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seq)
    sizes = (count, kv_heads, kv_heads)
    q, k, v = (torch.randn(2, n, seq, 8, generator=generator).requires_grad_() for n in sizes)
    return q, k, v


def drawn(pattern: Pattern) -> list[str]:
    return ["".join(".#"[int(seen)] for seen in row) for row in pattern]


def test_the_five_parts_look_as_they_are_drawn() -> None:
    assert drawn(sparse.global_blocks(4, 1)) == ["####", "#...", "#...", "#..."]
    assert drawn(sparse.band(4, 3)) == ["##..", "###.", ".###", "..##"]
    assert drawn(sparse.dilated(5, 3, gap=2)) == ["#.#..", ".#.#.", "#.#.#", ".#.#.", "..#.#"]
    assert drawn(sparse.local_blocks(4, 2)) == ["##..", "##..", "..##", "..##"]
    assert sparse.random_blocks(9, 3, seed=0).sum(1).tolist() == [3] * 9
    assert not torch.equal(sparse.random_blocks(9, 3, seed=0), sparse.random_blocks(9, 3, seed=1))


def test_the_compositions_look_as_their_papers_draw_them() -> None:
    assert drawn(sparse.star_transformer(5)) == ["#####", "###..", "####.", "#.###", "#..##"]
    assert drawn(sparse.longformer(5, window=3, count=1)) == drawn(sparse.star_transformer(5))
    assert drawn(sparse.etc(3, window=1, count=2)) == ["#####", "#####", "###..", "##.#.", "##..#"]
    bigbird = sparse.bigbird(9, window=3, count=1, random=2)
    assert (bigbird & ~sparse.longformer(9, window=3, count=1)).sum(1).max() <= 2
    assert (bigbird | sparse.longformer(9, window=3, count=1)).equal(bigbird)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", PATTERNS)
def test_values_and_gradients_are_those_of_the_masked_square(name: str, causal: bool) -> None:
    seq, block = 22, 4  # the last block is not full
    pattern, qkv = PATTERNS[name](blocks_of(seq, block)), heads(seq)
    out = sparse_attention(*qkv, pattern, block=block, causal=causal)
    expected = attention(*qkv, dense_mask(pattern, seq=seq, block=block, causal=causal))
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(0))
    ours, theirs = (torch.autograd.grad((part * direction).sum(), qkv) for part in (out, expected))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@given(seq=st.integers(1, 30), block=st.integers(1, 9), seed=st.integers(0, 99), causal=st.booleans())
@settings(max_examples=30)
def test_any_pattern_of_any_length_is_the_masked_square(
    seq: int, block: int, seed: int, causal: bool
) -> None:
    blocks = blocks_of(seq, block)
    chance = torch.rand(blocks, blocks, generator=torch.Generator().manual_seed(seed))
    pattern, qkv = (chance < 0.4) | sparse.local_blocks(blocks), heads(seq)
    out = sparse_attention(*qkv, pattern, block=block, causal=causal)
    expected = attention(*qkv, dense_mask(pattern, seq=seq, block=block, causal=causal))
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


def test_a_decoder_takes_the_pattern_as_its_slot() -> None:
    torch.manual_seed(0)
    model, tokens = tiny.llama(), torch.arange(24)[None]
    full = [BlockSparse(sparse.everywhere(6), block=4)] * 2
    torch.testing.assert_close(model(tokens, None, full), model(tokens))
    banded = [BlockSparse(sparse.band(6, 3), block=4)] * 2
    assert not torch.allclose(model(tokens, None, banded)[:, -1], model(tokens)[:, -1])


def peak_bytes(seq: int) -> int:
    q, k, v = heads(seq, count=1, kv_heads=1)
    with PeakBytes() as memory:
        pattern = sparse.bigbird(blocks_of(seq, 16), window=3, count=1, random=1)
        sparse_attention(q, k, v, pattern, block=16).sum().backward()
    return memory.peak


def test_memory_grows_with_the_length_and_not_with_its_square() -> None:
    small, large = peak_bytes(512), peak_bytes(2048)
    assert large < 5 * small
    assert large < 2048 * 2048  # a quarter of one float32 square


@pytest.mark.parametrize(
    ("pattern", "causal", "message"),
    [
        (sparse.everywhere(5), False, "a pattern of 5 x 5 blocks for 12 tokens, which are 3"),
        (~sparse.everywhere(3), False, "block 0 of the pattern sees nothing"),
        (sparse.everywhere(3) & ~sparse.local_blocks(3), True, "block 0 of the pattern sees not itself"),
    ],
)
def test_a_pattern_that_does_not_fit_is_refused(pattern: Pattern, causal: bool, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        sparse_attention(*heads(12), pattern, block=4, causal=causal)


def test_numbers_that_make_no_pattern_are_refused() -> None:
    with pytest.raises(ModelError, match="a band of width 4 has no middle"):
        sparse.band(8, 4)
    with pytest.raises(ModelError, match="9 random blocks are to be drawn from 4"):
        sparse.random_blocks(4, 9, seed=0)
    with pytest.raises(ModelError, match="takes no bias"):
        BlockSparse(sparse.everywhere(3), block=4).attend(*heads(12), lambda away: away[None].float())


def test_the_square_of_everywhere_is_plain_causal_attention() -> None:
    q, k, v = heads(12)
    out = sparse_attention(q, k, v, sparse.everywhere(3), block=4, causal=True)
    torch.testing.assert_close(out, causal_attention(q, k, v), atol=1e-5, rtol=1e-5)
