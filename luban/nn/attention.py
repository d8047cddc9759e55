"""Multi-head attention: project, place, attend, project back.

What is attended to is not decided here: a cache slot, where one is given, remembers or masks as it likes.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from luban.nn.cache import Bias, LayerCache, Remembered, causal_attention
from luban.nn.linear import Linear, Together
from luban.nn.norms import RMSNorm
from luban.nn.positions import Rotation, rotate


class Attention(nn.Module):
    """Self-attention whose query heads share `kv_heads` key heads.

    `qk_norm_eps` puts an RMSNorm on each head's queries and keys before they are rotated; None leaves it out.

    Source: Vaswani et al. 2017, section 3.2 (arXiv:1706.03762); Ainslie et al. 2023 for shared key heads
    (arXiv:2305.13245); Henry et al. 2020 for the norm (arXiv:2010.04245).
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        kv_heads: int,
        head_dim: int,
        qkv_bias: bool = False,
        out_bias: bool = False,
        qk_norm_eps: float | None = None,
    ) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.q = Linear(dim, heads * head_dim, bias=qkv_bias)
        self.k = Linear(dim, kv_heads * head_dim, bias=qkv_bias)
        self.v = Linear(dim, kv_heads * head_dim, bias=qkv_bias)
        self.o = Linear(heads * head_dim, dim, bias=out_bias)
        self.q_norm = None if qk_norm_eps is None else RMSNorm(head_dim, eps=qk_norm_eps)
        self.k_norm = None if qk_norm_eps is None else RMSNorm(head_dim, eps=qk_norm_eps)

        self.joined: Together | None = None

    def join(self) -> None:
        """Compute q, k and v as one product from now on (inference only)."""
        self.joined = self.q.join(self.k, self.v)

    def forward(
        self,
        x: Float[Tensor, "batch seq dim"],
        rotation: Rotation | None = None,
        slot: LayerCache | None = None,
        bias: Bias | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """What each position gathers from the ones it may see.

        `rotation` tells positions where RoPE is used, `bias` where scores depend on distance (T5, ALiBi).
        """
        projected = (self.q(x), self.k(x), self.v(x)) if self.joined is None else self.joined(x)
        q, k, v = (split_heads(part, self.head_dim) for part in projected)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        gathered = causal_attention(q, k, v, bias) if slot is None else slot.attend(q, k, v, bias)
        return self.o(gathered.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Attention of a decoder's tokens to an encoder's output.

    Source: Vaswani et al. 2017, section 3.2.3 (arXiv:1706.03762).
    """

    def __init__(
        self, dim: int, *, heads: int, head_dim: int, source_dim: int = 0, bias: bool = True
    ) -> None:
        """`source_dim`: width of the encoder's output; 0 means `dim`."""
        super().__init__()
        self.head_dim = head_dim
        self.q = Linear(dim, heads * head_dim, bias=bias)
        self.k = Linear(source_dim or dim, heads * head_dim, bias=bias)
        self.v = Linear(source_dim or dim, heads * head_dim, bias=bias)
        self.o = Linear(heads * head_dim, dim, bias=bias)

    def forward(
        self,
        x: Float[Tensor, "batch seq dim"],
        source: Float[Tensor, "batch source source_dim"],
        slot: Remembered,
    ) -> Float[Tensor, "batch seq dim"]:
        """What each token gathers from `source`, which is projected once per slot."""
        if slot.keys is None:
            k, v = (split_heads(part, self.head_dim) for part in (self.k(source), self.v(source)))
            slot.fill(k, v)
        gathered = slot.attend(split_heads(self.q(x), self.head_dim))
        return self.o(gathered.transpose(1, 2).flatten(2))


def split_heads(
    x: Float[Tensor, "batch seq inner"], head_dim: int
) -> Float[Tensor, "batch heads seq head_dim"]:
    """Each token's numbers as heads. Their count comes from the tensor: a tensor-parallel rank has only some."""
    return x.unflatten(-1, (-1, head_dim)).transpose(1, 2)
