"""The matrix product every layer is made of, on the faster of PyTorch's two CPU libraries.

`F.linear` sends float32 on a CPU to MKL, which runs one row on one thread and, on AMD, knows no AVX-512.
oneDNN, in the same wheel, does both. Everything else (other dtypes, devices, autocast, sharded or traced
weights) goes to `F.linear`; the module is an `nn.Linear` with an `nn.Linear`'s parameters.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from luban.nn.kernels import plain
from luban.nn.remade import Kept

_HAS_ONEDNN = torch.backends.mkldnn.is_available()

Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]
Together = Callable[[Tensor], tuple[Tensor, ...]]
"""Several layers over one input: what each gives."""


class Linear(nn.Linear):
    """`nn.Linear`, quicker in float32 on a CPU."""

    product: Product | None = None
    """What computes it in place of `linear`, from input, weight and bias: set where processes share the layer."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Linear's name for it
        return (self.product or linear)(input, self.weight, self.bias)

    def join(self, *others: nn.Linear) -> Together:
        """This layer and others over the same input as one product (inference only)."""
        return Joined(self, *others)


def linear(
    x: Float[Tensor, "... inputs"],
    weight: Float[Tensor, "outputs inputs"],
    bias: Float[Tensor, " outputs"] | None = None,
) -> Float[Tensor, "... outputs"]:
    """`F.linear(x, weight, bias)`, through oneDNN where that is the quicker one."""
    if not _suits_onednn(x, weight):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        product = _Product.apply(x, weight)
        return product if bias is None else product + bias
    return _onednn(x, weight, bias)


def _suits_onednn(x: Tensor, weight: Tensor) -> bool:
    return _HAS_ONEDNN and plain(x, weight) and not torch.is_autocast_enabled("cpu")


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if torch.compiler.is_compiling():
        product = _opaque_product(x, weight)
        return product if bias is None else product + bias
    if not x.numel():  # oneDNN multiplies no empty matrices
        return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


@torch.library.custom_op("luban::product", mutates_args=())
def _opaque_product(x: Tensor, weight: Tensor) -> Tensor:
    """The same for `torch.compile`, whose own lowering of it takes only frozen weights."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


@_opaque_product.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


class _Product(torch.autograd.Function):
    """`x @ weight.T` with its gradients, each one product; `linear` again, so it can be differentiated twice."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        return _onednn(x, weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG004 - torch's
        x, weight = inputs  # what no gradient needs is not kept: the input of a frozen weight
        to_x, to_weight = ctx.needs_input_grad
        ctx.kept = Kept(x) if to_weight else None
        ctx.save_for_backward(weight if to_x else None, *(ctx.kept.tensors if ctx.kept else ()))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (gradient,) = gradients
        weight, *kept = ctx.saved_tensors
        to_x = linear(gradient, weight.t()) if ctx.needs_input_grad[0] else None
        if ctx.kept is None:
            return to_x, None
        rows, x = gradient.reshape(-1, gradient.shape[-1]), ctx.kept.input(*kept)
        return to_x, linear(rows.t(), x.reshape(-1, x.shape[-1]).t())


class Joined:
    """Several layers over one input as one product, for inference: fewer, larger reads of memory.

    The layers' parameters become views of the joined ones, so names and files stay as they were. Join when the
    model is on its device and no longer trained.
    """

    def __init__(self, *layers: nn.Linear) -> None:
        self.sizes = [layer.out_features for layer in layers]
        self.weight = torch.cat([layer.weight.detach() for layer in layers])
        biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
        self.bias = torch.cat(biases) if biases else None
        for layer, part in zip(layers, self.weight.split(self.sizes), strict=True):
            layer.weight = nn.Parameter(part, requires_grad=False)

    def __call__(self, x: Float[Tensor, "... inputs"]) -> tuple[Tensor, ...]:
        """What each layer would give, as views of one result."""
        return linear(x, self.weight, self.bias).split(self.sizes, -1)


def measure_flops(device: torch.device, *, size: int = 1024, seconds: float = 0.2) -> float:
    """FLOP/s of a square float32 product here: the rate that MFU is a share of. The best of several runs."""
    a, b = torch.rand(size, size, device=device), torch.rand(size, size, device=device)
    linear(a, b)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        begun = time.perf_counter()
        linear(a, b)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        best = min(best, time.perf_counter() - begun)
    return 2 * size**3 / best
