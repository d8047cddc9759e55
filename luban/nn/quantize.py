"""Weights in four bits: NF4, whose 16 values are quantiles of a normal distribution, and the layer that holds them.

Each block of 64 weights is divided by its greatest and rounded to the nearest value; the greatest (scales) are in turn
rounded to eight bits, in groups of 256. A layer keeps the codes and makes its matrix again, piece by piece, whenever
it is used; it gives gradients to its input, never to its weight.

Source: Dettmers et al. 2023, section 3 and appendix E (arXiv:2305.14314); eight bits: Dettmers 2016 (arXiv:1511.04561).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from luban.errors import ConfigError
from luban.nn import surgery
from luban.nn.integers import IntLinear
from luban.nn.kernels import is_imagined
from luban.nn.linear import Linear, Together, linear

BLOCK = 64
"""Weights that share a scale."""
GROUP = 256
"""Scales that share a range, where they are rounded too."""
PIECE = 1 << 20
"""Weights that exist as floats at one time."""
OUTERMOST = 0.9677083
"""The last quantile: 1 less the mean of 1/32 and 1/30, to the digits of the published table."""


@functools.cache
def nf4_values(device: torch.device | None = None) -> Float[Tensor, 16]:
    """NF4's values, rising from -1 to 1: seven below zero, zero itself, eight above.

    The halves are quantiles of their own, as one row of 16 would not hit zero. In float32 the published table to the
    bit.
    """
    above = torch.special.ndtri(torch.linspace(OUTERMOST, 0.5, 9)[:-1].double())
    below = -torch.special.ndtri(torch.linspace(OUTERMOST, 0.5, 8)[:-1].double())
    values = torch.cat([below, above.new_zeros(1), above.flip(0)]).float()
    return (values / values[-1]).to(device)


@functools.cache
def dynamic_values(device: torch.device | None = None) -> Float[Tensor, 256]:
    """Eight-bit values between -1 and 1: in seven decades, each with twice as many as the one below it; 0 and 1."""
    values = [torch.tensor([0.0, 1.0])]
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2**decade + 1)
        middles = 10 ** (decade - 6) * ((edges[:-1] + edges[1:]) / 2)
        values += [middles, -middles]
    return torch.cat(values).sort().values.to(device)


@functools.cache
def _pairs(device: torch.device) -> Tensor:
    """For each byte of two codes their values, as one word of eight bytes."""
    values = nf4_values(device)
    return torch.stack([values.repeat_interleave(16), values.repeat(16)], 1).view(torch.int64).flatten()


def _rounded(
    x: Float[Tensor, " numbers"], values: Float[Tensor, " levels"], block: int
) -> tuple[UInt8[Tensor, " numbers"], Float[Tensor, " blocks"]]:
    """The nearest of `values` to each number over the greatest of its block; and these. Full blocks only."""
    rows = x.reshape(-1, block)
    greatest = rows.abs().amax(1)
    share = (rows * (1 / greatest.clamp(min=1e-38))[:, None]).clamp(-1, 1)
    middles = (values[:-1] + values[1:]) / 2
    return torch.bucketize(share, middles, out_int32=True).to(torch.uint8).flatten(), greatest


def _filled(x: Tensor, size: int) -> Tensor:
    """`x` with zeros up to a multiple of `size`."""
    return torch.nn.functional.pad(x, (0, -len(x) % size))


def _numbers(
    codes: Tensor, scales: Tensor, ranges: Tensor | None, mean: Tensor | None, first: int, end: int
) -> Tensor:
    """A layer's weights from number `first`, where a block begins, to `end`, in float32."""
    blocks = slice(first // BLOCK, -(-end // BLOCK))
    half = codes[blocks.start * BLOCK // 2 : blocks.stop * BLOCK // 2]
    pairs = _pairs(codes.device).index_select(0, half.int()).view(torch.float32)
    greatest = _scales(scales[blocks], ranges, mean, blocks.start)
    return (pairs.view(-1, BLOCK) * greatest[:, None]).flatten()[: end - first]


def _scales(
    scales: Tensor, ranges: Tensor | None, mean: Tensor | None, first: int
) -> Float[Tensor, " blocks"]:
    """Blocks' scales, from block `first` on, in float32."""
    if ranges is None or mean is None:
        return scales.view(torch.float32)
    groups = torch.arange(first, first + len(scales), device=scales.device) // GROUP
    values = dynamic_values(scales.device)[scales.int()]
    return values * ranges.view(torch.float32)[groups] + mean.view(torch.float32)


@torch.library.custom_op("luban::nf4_numbers", mutates_args=())
def _opaque_numbers(
    codes: Tensor, scales: Tensor, ranges: Tensor | None, mean: Tensor | None, first: int, end: int
) -> Tensor:
    """The same for `torch.compile`, which would make the tables anew in every graph."""
    return _numbers(codes, scales, ranges, mean, first, end)


@_opaque_numbers.register_fake
def _(codes: Tensor, *rest: Any) -> Tensor:
    first, end = rest[-2:]
    return codes.new_empty(end - first, dtype=torch.float32)


class Nf4Linear(nn.Linear):
    """A linear layer whose weight is kept in 4 + 1/8 + 1/512 bits (4.5 without `double`), and never trained.

    `weight` is the float matrix, made on demand. Among its parameters and in a state_dict `weight` is the codes, two
    to a byte, the first in the high half; scales are kept as bits, so that `.to(dtype)` leaves them alone.
    """

    scales: Tensor
    ranges: Tensor | None
    mean: Tensor | None

    def __init__(self, plain: nn.Linear, *, double: bool = True, compute: torch.dtype | None = None) -> None:
        """Round the weight of `plain`; `compute` is the dtype of the product, the input's (or autocast's) if None."""
        self._be_like(plain, compute)
        flat = plain.weight.detach().flatten()
        rounded = [
            _rounded(_filled(piece.float(), BLOCK), nf4_values(flat.device), BLOCK)
            for piece in flat.split(PIECE)
        ]
        codes = torch.cat([codes for codes, _ in rounded])
        packed = codes[::2] << 4 | codes[1::2]
        self._parameters["weight"] = nn.Parameter(packed, requires_grad=False)
        self._keep_scales(torch.cat([scales for _, scales in rounded]), double=double)

    @classmethod
    def stored(
        cls, plain: nn.Linear, codes: Tensor, scales: Tensor, ranges: Tensor, mean: Tensor
    ) -> Nf4Linear:
        """A layer of the shape of `plain` out of what one kept: codes, eight-bit scales, their ranges and mean."""
        layer = cls.__new__(cls)
        layer._be_like(plain, None)
        layer._parameters["weight"] = nn.Parameter(codes, requires_grad=False)
        layer.register_buffer("scales", scales)
        layer.register_buffer("ranges", ranges.view(torch.int32))
        layer.register_buffer("mean", mean.view(torch.int32))
        return layer

    def _be_like(self, plain: nn.Linear, compute: torch.dtype | None) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.dtype, self.compute = plain.weight.dtype, compute
        self.register_parameter("bias", plain.bias)
        self.train(plain.training)

    def _keep_scales(self, scales: Float[Tensor, " blocks"], *, double: bool) -> None:
        if not double:
            self.register_buffer("scales", scales.view(torch.int32))
            self.register_buffer("ranges", None)
            self.register_buffer("mean", None)
            return
        mean = scales.mean()
        codes, ranges = _rounded(_filled(scales - mean, GROUP), dynamic_values(scales.device), GROUP)
        self.register_buffer("scales", codes[: len(scales)])
        self.register_buffer("ranges", ranges.view(torch.int32))
        self.register_buffer("mean", mean.view(torch.int32))

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """See `nn.Module.register_parameter`; a weight in floats is refused."""
        assert name != "weight", "a quantised weight cannot be set: put another layer in its place"
        super().register_parameter(name, param)

    @property
    def weight(self) -> Float[Tensor, "outputs inputs"]:  # pyright: ignore[reportIncompatibleVariableOverride] - read only
        """The weight as the layer computes with it, in the dtype it was given in."""
        return torch.cat([rows for _, _, rows in self.pieces(self.dtype)])

    def join(self, *others: nn.Linear) -> Together:
        """This layer and others over the same input, each alone: their blocks do not lie together."""
        return lambda x: tuple(layer(x) for layer in (self, *others))

    def stored_bytes(self) -> int:
        """Bytes of codes and scales."""
        return sum(tensor.nbytes for name, tensor in self.state_dict().items() if name in _STORED)

    def pieces(self, dtype: torch.dtype) -> Iterator[tuple[int, int, Float[Tensor, "rows inputs"]]]:
        """The matrix in turn by rows: first, end, and the rows as floats."""
        unit = BLOCK // math.gcd(BLOCK, self.in_features)  # rows that end where a block does
        step = max(1, PIECE // (self.in_features * unit)) * unit
        codes = self._parameters["weight"]
        assert codes is not None
        made = _opaque_numbers if torch.compiler.is_compiling() or is_imagined(codes) else _numbers
        for first in range(0, self.out_features, step):
            end = min(first + step, self.out_features)
            place = first * self.in_features, end * self.in_features
            numbers = made(codes, self.scales, self.ranges, self.mean, *place)
            yield first, end, numbers.view(end - first, self.in_features).to(dtype)

    def forward(self, input: Float[Tensor, "... inputs"]) -> Float[Tensor, "... outputs"]:  # noqa: A002 - nn.Linear's
        """`F.linear` with `weight`, in the computing dtype; the result is in the dtype `F.linear` would give."""
        place = input.device.type
        mixed = torch.get_autocast_dtype(place) if torch.is_autocast_enabled(place) else None
        y: Tensor = _Product.apply(input.to(self.compute or mixed or input.dtype), self)
        y = y.to(mixed or input.dtype)
        return y if self.bias is None else y + self.bias.to(y.dtype)


_STORED = {"weight", "scales", "ranges", "mean"}
Quantised = Nf4Linear | IntLinear
"""Layers whose weight is in fewer bits."""


class _Product(torch.autograd.Function):
    """`x @ weight.T` by pieces; the gradient to `x` makes them once more, so that nothing is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Nf4Linear) -> Tensor:
        ctx.layer, ctx.dtype = layer, x.dtype
        parts = [linear(x, rows) for _, _, rows in layer.pieces(x.dtype)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        pieces = ctx.layer.pieces(ctx.dtype)
        sums = (linear(gradient[..., first:end], rows.t()).float() for first, end, rows in pieces)
        return functools.reduce(torch.add, sums).to(ctx.dtype), None


def quantise(
    model: nn.Module,
    patterns: Sequence[str] = (),
    *,
    double: bool = True,
    compute: torch.dtype | None = None,
) -> dict[str, nn.Linear]:
    """Round the linear layers that a pattern means (with none: all but heads); returns those they stand in for.

    Put back by `surgery.put`, these undo it; let go, their memory is free.

    Raises ConfigError for a pattern that means no layer or a head, and for a layer that has an adapter already.
    """
    found = surgery.matching(model, patterns, nn.Linear) if patterns else _bodies(model)
    plain = {name: layer for name, layer in found.items() if not isinstance(layer, Quantised)}
    for name, layer in plain.items():
        if _is_head(name):
            what = f"'{name}' cannot be quantised: a head's weight is used directly"
            raise ConfigError(what, where="quantised_modules")
        if surgery.ATTACHED in layer._modules:
            raise ConfigError(f"'{name}' has an adapter already: quantise before", where="quantised_modules")
    surgery.put(
        model, {name: Nf4Linear(layer, double=double, compute=compute) for name, layer in plain.items()}
    )
    return plain


def dequantised(layer: Quantised) -> Linear:
    """A plain layer that computes what `layer` does, with the same parts attached."""
    with torch.device("meta"):
        plain = Linear(layer.in_features, layer.out_features, bias=False)
    plain.weight = nn.Parameter(layer.weight, requires_grad=False)
    plain.bias = layer.bias
    attached: Any = layer._modules.get(surgery.ATTACHED) or {}
    for name, part in attached.items():
        surgery.attach(plain, name, part)
    return plain.train(layer.training)


def dequantise(model: nn.Module) -> Mapping[str, Quantised]:
    """Plain layers in place of the quantised ones, with the rounded weights; returns those, by name."""
    found = {name: layer for name, layer in model.named_modules() if isinstance(layer, Quantised)}
    for name, layer in found.items():
        surgery.put(model, {name: dequantised(layer)})
    return found


def is_quantised(model: nn.Module) -> bool:
    """Whether a layer of the model keeps its weight in four or eight bits."""
    return any(isinstance(layer, Quantised) for layer in model.modules())


def weight_bytes(model: nn.Module) -> dict[str, int]:
    """Bytes of the model's own weights: those `quantised`, with their scales, and the others as `kept`."""
    packed = {name: m for name, m in model.named_modules() if isinstance(m, Quantised)}
    own = surgery.own_parameters(model)
    kept = sum(value.nbytes for name, value in own.items() if name.removesuffix(".weight") not in packed)
    return {"quantised": sum(layer.stored_bytes() for layer in packed.values()), "kept": kept}


def _bodies(model: nn.Module) -> dict[str, nn.Linear]:
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and surgery.ATTACHED not in name.split(".") and not _is_head(name)
    }


def _is_head(name: str) -> bool:
    return name.rpartition(".")[2] in ("head", "score")
