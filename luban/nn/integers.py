"""Weights as whole numbers of eight or four bits with a scale, and the layer that computes with them as they are.

Eight bits share a scale by output, four by output and group of inputs. Scales are bfloat16 numbers, as PyTorch's CPU
kernels take them, so that a file, the layer and the kernel mean the same number. The kernels compute in bfloat16;
where they cannot (another device, gradients, odd sizes) the matrix is made again and multiplied as it is.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn

from luban.errors import ConfigError
from luban.nn.linear import Together, linear

Bits = Literal[8, 4]
GROUPS = (32, 64, 128)
"""Inputs that may share a scale in four bits."""
SHRINKS = tuple(1 - step / 20 for step in range(8))
"""Shares of a group's range that are tried; what lies outside is cut off, and the rest is told finer."""
ROWS = 4096
"""Rows that are rounded at one time."""


def rounded(
    weight: Float[Tensor, "outputs inputs"], bits: Bits, group: int = 0
) -> tuple[Int8[Tensor, "outputs inputs"], Float[Tensor, "outputs groups"]]:
    """Whole numbers and scales (bfloat16) whose products are near `weight`; `group` 0 is a scale for each output.

    Raises ConfigError where groups of `group` do not fill a row.
    """
    inputs = weight.shape[1]
    if group and inputs % group:
        fitting = [size for size in GROUPS if inputs % size == 0]
        hint = f"--group {fitting[-1]}" if fitting else "int8, which has no groups"
        raise ConfigError(f"rows of {inputs} weights do not divide into groups of {group}", hint=hint)
    parts = [_rounded_rows(rows.float(), bits, group or inputs) for rows in weight.split(ROWS)]
    return torch.cat([codes for codes, _ in parts]), torch.cat([scales for _, scales in parts])


def _rounded_rows(weight: Tensor, bits: Bits, group: int) -> tuple[Tensor, Tensor]:
    rows = weight.reshape(weight.shape[0], -1, group)
    lowest = -(2 ** (bits - 1))
    codes, scales, least = rows, rows[..., :1], torch.full_like(rows[..., :1], torch.inf)
    # Eight bits are fine enough as they are. In four the greatest weight becomes -8, whatever its sign.
    for shrink in (1.0,) if bits == 8 else SHRINKS:
        reach = rows.abs().amax(-1, keepdim=True) / (-lowest - 1)
        if bits == 4:
            reach = rows.gather(-1, rows.abs().argmax(-1, keepdim=True)) / lowest * shrink
        scale = torch.where(reach == 0, 1.0, reach).bfloat16().float()
        tried = (rows / scale).round().clamp(lowest, -lowest - 1)
        error = (tried * scale - rows).square().sum(-1, keepdim=True)
        better = error < least
        codes = torch.where(better, tried, codes)
        scales, least = torch.where(better, scale, scales), torch.where(better, error, least)
    return codes.to(torch.int8).flatten(1), scales[..., 0].bfloat16()


LANES = 32
"""Inputs that a kernel reads at a time."""


class IntLinear(nn.Linear):
    """A linear layer whose weight is whole numbers of `bits` bits times scales, and never trained.

    `weight` is the float matrix, made on demand. Among its parameters and in a state_dict `weight` is the codes;
    scales are kept as bits, so that `.to(dtype)` leaves them alone.
    """

    scale_bits: Tensor

    def __init__(
        self,
        codes: Int8[Tensor, "outputs inputs"],
        scales: Float[Tensor, "outputs groups"],
        *,
        bits: Bits,
        bias: nn.Parameter | None = None,
    ) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = codes.shape
        self.bits: Bits = bits
        self.group = codes.shape[1] // scales.shape[1]
        self.register_parameter("bias", bias)
        self._keep(codes if bits == 8 else _nibbles(codes))
        self.register_buffer("scale_bits", scales.contiguous().view(torch.int16))
        self.ready: tuple[Tensor, Tensor] | None = None
        """Weights and scales in the order the four-bit kernel reads them, once it was used."""

    @classmethod
    def of(cls, plain: nn.Linear, bits: Bits, group: int = 0) -> IntLinear:
        """`plain` with its weight rounded; raises as `rounded` does."""
        codes, scales = rounded(plain.weight.detach(), bits, group)
        return cls(codes, scales, bits=bits, bias=plain.bias).train(plain.training)

    def _keep(self, codes: Tensor) -> None:
        self._parameters["weight"] = nn.Parameter(codes, requires_grad=False)

    @property
    def codes(self) -> Tensor:
        """Eight bits: [outputs, inputs] of int8. Four: two to a byte, the first in the low half, 8 added to each."""
        codes = self._parameters["weight"]
        assert codes is not None
        return codes

    @property
    def scales(self) -> Float[Tensor, "outputs groups"]:
        return self.scale_bits.view(torch.bfloat16)

    @property
    def weight(self) -> Float[Tensor, "outputs inputs"]:  # pyright: ignore[reportIncompatibleVariableOverride] - read only
        """The weight as numbers, in float32."""
        rows = self.whole_numbers().view(self.out_features, -1, self.group)
        return (rows * self.scales.float()[..., None]).flatten(1)

    def whole_numbers(self) -> Int8[Tensor, "outputs inputs"]:
        """The codes, one to a number."""
        if self.bits == 8:
            return self.codes
        pairs = torch.stack([self.codes & 15, self.codes >> 4], -1).flatten(1)
        return pairs.to(torch.int8) - 8

    def forward(self, input: Float[Tensor, "... inputs"]) -> Float[Tensor, "... outputs"]:  # noqa: A002 - nn.Linear's
        """`F.linear` with `weight`; the result is in the input's dtype."""
        if self._suits_kernel(input):
            rows = input.reshape(-1, self.in_features).bfloat16().contiguous()
            y = self._by_kernel(rows).to(input.dtype).view(*input.shape[:-1], self.out_features)
        else:
            y = linear(input, self.weight.to(input.dtype))
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def join(self, *others: IntLinear) -> Together:
        """This layer and others over the same input as one product; their codes become views of its codes."""
        layers = (self, *others)
        sizes = [layer.out_features for layer in layers]
        biases: list[Tensor] = [layer.bias for layer in layers if layer.bias is not None]
        whole = IntLinear(
            torch.cat([layer.whole_numbers() for layer in layers]),
            torch.cat([layer.scales for layer in layers]),
            bits=self.bits,
            bias=nn.Parameter(torch.cat(biases), requires_grad=False) if biases else None,
        )
        views = zip(layers, whole.codes.split(sizes), whole.scale_bits.split(sizes), strict=True)
        for layer, codes, scales in views:
            layer._keep(codes)
            layer.scale_bits = scales
        return lambda x: whole(x).split(sizes, -1)

    def stored_bytes(self) -> int:
        """Bytes of codes and scales."""
        return self.codes.nbytes + self.scale_bits.nbytes

    def _suits_kernel(self, x: Tensor) -> bool:
        fits = self.in_features % LANES == 0  # the kernels read beyond a row that ends inside a register
        fits &= self.bits == 8 or (self.out_features % 16 == 0 and self.group in GROUPS)
        return x.is_cpu and fits and not (torch.is_grad_enabled() and x.requires_grad)

    def _by_kernel(self, rows: Tensor) -> Tensor:
        if self.bits == 8:
            return torch._weight_int8pack_mm(rows, self.codes, self.scales[:, 0])
        if self.ready is None:
            self.ready = self._in_kernel_order()
        return torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.ready[0], self.group, self.ready[1])

    def _in_kernel_order(self) -> tuple[Tensor, Tensor]:
        codes = self.whole_numbers().int() + 8
        scales = self.scales.t()
        no_shift = torch.zeros_like(scales)
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
        return packed, torch.stack([scales, no_shift], -1).contiguous()


def _nibbles(codes: Int8[Tensor, "outputs inputs"]) -> Tensor:
    """Codes of four bits, two to a byte."""
    shifted = (codes + 8).to(torch.uint8)
    return shifted[:, ::2] | shifted[:, 1::2] << 4
