"""Mamba: blocks of one selective state space layer each, no attention, no MLP, no positions.

What a block remembers of the text has a constant size, so a token takes as long to decode after a million others
as after ten. What it keeps and forgets follows the text: step, B and C are computed from each token.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from luban.errors import ModelError
from luban.models.base import CausalLM, Shape, dtype_entry, from_entries, reject_unsupported
from luban.models.names import Names
from luban.nn.cache import Cache, Recurrent
from luban.nn.init import unset_embedding
from luban.nn.linear import Linear
from luban.nn.norms import RMSNorm
from luban.nn.ssm import selective_scan, selective_step

HF_ENTRIES = {
    "vocab_size": "vocab",
    "hidden_size": "dim",
    "num_hidden_layers": "layers",
    "state_size": "state",
    "expand": "expand",
    "conv_kernel": "kernel",
    "time_step_rank": "rank",
    "layer_norm_epsilon": "norm_eps",
    "use_bias": "bias",
    "use_conv_bias": "conv_bias",
    "residual_in_fp32": "residual_float32",
    "max_position_embeddings": "context",
    "tie_word_embeddings": "tied",
    "bos_token_id": "bos_id",
    "eos_token_id": "eos_id",
    "pad_token_id": "pad_id",
}
SUPPORTED = {"hidden_act": ("silu", "swish")}
STEP_RANGE = (1e-3, 1e-1)
"""Where the steps of a fresh model lie."""
NAMES = Names(
    modules={
        "backbone.embeddings": "embedding",
        "backbone.layers.*.norm": "blocks.*.norm",
        "backbone.layers.*.mixer.in_proj": "blocks.*.mixer.inputs",
        "backbone.layers.*.mixer.conv1d": "blocks.*.mixer.conv",
        "backbone.layers.*.mixer.x_proj": "blocks.*.mixer.selection",
        "backbone.layers.*.mixer.dt_proj": "blocks.*.mixer.step",
        "backbone.layers.*.mixer.A_log": "blocks.*.mixer.a_log",
        "backbone.layers.*.mixer.D": "blocks.*.mixer.skip",
        "backbone.layers.*.mixer.out_proj": "blocks.*.mixer.out",
        "backbone.norm_f": "norm",
        "lm_head": "head",
    },
    prefix="backbone.",
    buffers=(),
)


@dataclass(frozen=True, kw_only=True)
class MambaConfig:
    """The numbers of one Mamba."""

    model_type: Literal["mamba"] = "mamba"
    """Hugging Face's name of the family."""
    vocab: Annotated[int, Ge(1)]
    """Number of token ids."""
    dim: Annotated[int, Ge(1)]
    """Width of the residual stream."""
    layers: Annotated[int, Ge(1)]
    """Blocks."""
    state: Annotated[int, Ge(1)] = 16
    """Numbers that each channel remembers."""
    expand: Annotated[int, Ge(1)] = 2
    """How many times wider than the stream a block is inside."""
    kernel: Annotated[int, Ge(1)] = 4
    """Tokens that the convolution before the state space sees."""
    rank: Annotated[int, Ge(0)] = 0
    """Width from which the steps are computed; 0 means dim/16, rounded up."""
    context: Annotated[int, Ge(1)] = 2048
    """Longest text that stages take at once. The model knows no limit, and its published files name none."""
    norm_eps: Annotated[float, Gt(0)] = 1e-5
    """Added to the mean square before its root is taken."""
    bias: bool = False
    """Biases on the projections into and out of a block."""
    conv_bias: bool = True
    """A bias on the convolution."""
    residual_float32: bool = True
    """Keep the residual stream in float32 whatever the weights' type."""
    tied: bool = True
    """Share the embedding with the head."""
    bos_id: int | None = None
    """Id that begins a text."""
    eos_id: int | tuple[int, ...] | None = None
    """Id, or ids, that end an answer."""
    pad_id: int | None = None
    """Id that fills up shorter rows."""
    dtype: str = "float32"
    """Type of the weights: float32, bfloat16, float16."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rank", self.rank or -(-self.dim // 16))

    @property
    def hidden(self) -> int:
        return self.expand * self.dim

    @property
    def heads(self) -> int:
        return 0

    kv_heads = head_dim = heads

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Self:
        """Read an HF `config.json`; raises ModelError naming a missing or unsupported entry."""
        reject_unsupported(config, SUPPORTED)
        entries = dict(config)
        if entries.get("time_step_rank") == "auto":
            del entries["time_step_rank"]
        return from_entries(cls, entries, HF_ENTRIES, dtype=dtype_entry(config))

    @classmethod
    def sized(cls, shape: Shape) -> Self:
        """A new model's config, its blocks twice as wide as the stream.

        Raises ModelError for heads, which it has none of, and a `hidden` that is no multiple of `dim`.
        """
        numbers = dataclasses.asdict(shape)
        for name in ("heads", "kv_heads"):
            if count := numbers.pop(name):
                raise ModelError(f"{name} {count} for a Mamba, which has none")
        hidden = numbers.pop("hidden") or 2 * shape.dim
        if hidden % shape.dim:
            raise ModelError(f"hidden {hidden} is not a multiple of dim {shape.dim}")
        return cls(**numbers, expand=hidden // shape.dim)

    def to_hf(self) -> dict[str, Any]:
        """HF's `config.json`; the context is an entry of ours, which transformers carries along."""
        return {
            "architectures": ["MambaForCausalLM"],
            "model_type": self.model_type,
            **{entry: getattr(self, field) for entry, field in HF_ENTRIES.items()},
            "intermediate_size": self.hidden,
            "hidden_act": "silu",
            "dtype": self.dtype,
            "torch_dtype": self.dtype,
        }


class CausalConvolution(nn.Module):
    """Each channel's own weighted sum of its last `kernel` tokens."""

    def __init__(self, dim: int, kernel: int, *, bias: bool) -> None:
        super().__init__()
        bound = 1 / math.sqrt(kernel)
        self.weight = nn.Parameter(torch.empty(dim, 1, kernel).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None

    def forward(
        self,
        x: Float[Tensor, "batch seq dim"],
        before: Float[Tensor, "batch kernel-1 dim"] | None,
        begins: Bool[Tensor, "batch seq"] | None,
    ) -> tuple[Float[Tensor, "batch seq dim"], Float[Tensor, "batch kernel-1 dim"]]:
        """The sums, and the tokens that the next ones need; no sum reaches back over a token that `begins`."""
        seq, past = x.shape[1], self.weight.shape[-1] - 1
        taps = self.weight[:, 0].t()  # [kernel, dim]
        padded = torch.cat([x.new_zeros(len(x), past, x.shape[2]) if before is None else before, x], 1)
        total = x * taps[past] if self.bias is None else torch.addcmul(self.bias, x, taps[past])
        apart = begins
        for back in range(1, past + 1):
            reached = padded[:, past - back : past - back + seq]
            if begins is not None and apart is not None:
                reached = reached.masked_fill(apart[..., None], 0.0)
                apart = apart | F.pad(begins, (back, 0))[:, :seq]
            total = torch.addcmul(total, reached, taps[past - back])
        return total, padded.narrow(1, seq, past).clone()  # a view would keep the whole text in memory


class Mixer(nn.Module):
    """The selective state space layer: convolve, choose step, B and C by token, scan, gate.

    Source: Gu and Dao 2023, section 3.4 and figure 3 (arXiv:2312.00752).
    """

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        inner = config.hidden
        self.widths = (config.rank, config.state, config.state)
        self.inputs = Linear(config.dim, 2 * inner, bias=config.bias)
        self.conv = CausalConvolution(inner, config.kernel, bias=config.conv_bias)
        self.selection = Linear(inner, sum(self.widths), bias=False)
        self.step = Linear(config.rank, inner, bias=True)
        self.a_log = nn.Parameter(torch.empty(inner, config.state))
        self.skip = nn.Parameter(torch.empty(inner))
        self.out = Linear(inner, config.dim, bias=config.bias)

    def forward(
        self, x: Float[Tensor, "batch seq dim"], slot: Recurrent | None = None
    ) -> Float[Tensor, "batch seq dim"]:
        slot = Recurrent() if slot is None else slot
        reads, begins = slot.reads(x.shape[1]), slot.begins()
        before, state = slot.state or (None, None)
        x, gate = self.inputs(x).chunk(2, -1)
        if reads is not None:
            x = x * reads[..., None]
        x, before = self.conv(x, before, begins)
        x = F.silu(x)
        step, b, c = self.selection(x).split(self.widths, -1)
        step = F.softplus(self.step(step).float())
        if reads is not None:
            step = step * reads[..., None]
        y, state = self._scan(x.float(), step, b.float(), c.float(), begins, state)
        slot.state = (before, state)
        return self.out(y.to(x.dtype) * F.silu(gate))

    def _scan(
        self, x: Tensor, step: Tensor, b: Tensor, c: Tensor, begins: Tensor | None, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The state space's output with its input added, `skip` times, and its last state; all in float32."""
        a = -self.a_log.float().exp()
        if x.shape[1] == 1 and state is not None:
            y, state = selective_step(x[:, 0], step[:, 0], a, b[:, 0], c[:, 0], state)
            y = y[:, None]
        else:
            y, state = selective_scan(x, step, a, b, c, begins=begins, state=state)
        return torch.addcmul(y, x, self.skip.float()), state

    @torch.no_grad()
    def reset(self) -> None:
        """First values of the state space: rates 1 to `state`, steps spread evenly in the logarithm.

        Source: Gu and Dao 2023, section 3.6.
        """
        inner, state = self.a_log.shape
        self.a_log.copy_(torch.arange(1, state + 1).float().log().expand(inner, -1))
        self.skip.fill_(1.0)
        low, high = (math.log(bound) for bound in STEP_RANGE)
        steps = (torch.rand(inner) * (high - low) + low).exp()
        self.step.bias.copy_(steps + torch.log(-torch.expm1(-steps)))  # softplus undone
        bound = self.widths[0] ** -0.5
        self.step.weight.uniform_(-bound, bound)


class Block(nn.Module):
    """The mixer on the normed stream, added to it."""

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.mixer = Mixer(config)

    def forward(
        self, x: Float[Tensor, "batch seq dim"], slot: Recurrent | None = None
    ) -> Float[Tensor, "batch seq dim"]:
        return x + self.mixer(self.norm(x.to(self.norm.weight.dtype)), slot)


class Mamba(CausalLM):
    """A Mamba.

    Source: Gu and Dao 2023 (arXiv:2312.00752).
    """

    config: MambaConfig

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = unset_embedding(config.vocab, config.dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.head = Linear(config.dim, config.vocab, bias=False)
        if config.tied:
            self.tie()
        self._reset()

    def hidden(
        self,
        tokens: Int[Tensor, "batch seq"] | None,
        positions: Int[Tensor, "batch seq"] | None = None,  # noqa: ARG002 - the contract's; order is in the scan
        cache: Cache | None = None,
        embeds: Float[Tensor, "batch seq dim"] | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """States after the last norm; see `CausalLM.hidden`."""
        x = self.embedding(tokens) if embeds is None else embeds
        x = self.run_blocks(x.float() if self.config.residual_float32 else x, cache)
        return self.norm(x.to(self.norm.weight.dtype))

    def make_cache(
        self,
        *,
        batch: int,  # noqa: ARG002 - the contract's
        capacity: int,  # noqa: ARG002 - the contract's; a state has the same size however long the text
        valid: Bool[Tensor, "batch capacity"] | None = None,
    ) -> Cache:
        """Empty states; see `CausalLM.make_cache`."""
        return [Recurrent(valid=valid) for _ in self.blocks]

    def isolate(self, documents: Int[Tensor, "batch seq"]) -> Cache:
        """States that start anew with each document; see `CausalLM.isolate`."""
        return [Recurrent(documents=documents) for _ in self.blocks]

    def _reset(self) -> None:
        """First values beyond those that layers draw themselves (uniform, by their number of inputs)."""
        if self.embedding.weight.is_meta:
            return
        for weight in {self.embedding.weight, self.head.weight}:
            nn.init.normal_(weight, std=0.02)
        for module in self.modules():
            if isinstance(module, Mixer):
                module.reset()
                # The stream is the sum of all blocks and should start at the same size however many there are.
                module.out.weight.data /= math.sqrt(self.config.layers)
