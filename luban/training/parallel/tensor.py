"""Tensor parallelism: the processes of axis `tp` share every layer, each with some heads and a slice of every MLP.

The family's file says which layer is cut how (`TP_PLAN`), as data; `split` follows it on a model built alike on all
processes. Parameters that are cut become DTensors, so that FSDP, the optimizer and checkpoints know what they are;
products are of the plain part that a process holds. What is not in the plan stays whole and equal everywhere.

    column      an output is one process's; no sum. The module around it takes its input as `shared`.
    row         an input is one process's; the outputs are `summed`, the bias added once.
    vocabulary  an embedding's or a head's rows are shared out by token id.
    heads       what belongs to attention heads and is no product: norms of queries and keys, biases by distance.

A block so has two sums on the way forward, two on the way back. Source: Shoeybi et al. 2019 (arXiv:1909.08053).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from luban.nn.linear import Linear, linear
from luban.nn.norms import RMSNorm
from luban.nn.positions import Alibi
from luban.training.parallel.collectives import Group, gathered, shared, summed
from luban.training.parallel.norms import local
from luban.training.parallel.plans import bounds, matches, plan_for
from luban.training.parallel.world import World


def split(model: Any, world: World) -> Any:
    """The same model, of which this process now holds its part; nothing where `world.tp` is 1.

    All processes bring equal weights. Raises ConfigError where the family has no plan or its numbers do not divide.
    """
    if world.tp == 1:
        return model
    plan = plan_for(model.config, world.tp)
    part = _Part(world)
    modules, entered = dict(model.named_modules()), set[str]()
    for pattern, cut in plan.items():
        names = [name for name in modules if matches(pattern, name)]
        # One stage of a pipeline need not have an embedding or a head.
        assert names or world.pp > 1, f"'{pattern}' matches no module of {model.config.model_type}"
        for name in names:
            _replace(model, name, CUTS[cut](modules[name], part))
        if cut == "column":
            entered |= {name.rpartition(".")[0] for name in names}
    for name in entered:
        part.enter(modules[name])
    return model


class _Part:
    """This process's place among those that share the layers, and what it has of each parameter."""

    def __init__(self, world: World) -> None:
        assert world.mesh is not None, "one process shares with nobody"
        self.mesh: DeviceMesh = world.mesh["tp"]
        self.group: Group = self.mesh.get_group()
        self.place, self.places = world.place("tp"), world.tp
        self.cut: dict[Tensor, nn.Parameter] = {}  # a tied weight is cut once

    def bounds(self, count: int) -> tuple[int, int]:
        return bounds(count, self.place, self.places)

    def of(self, parameter: Tensor, dim: int = 0) -> nn.Parameter:
        """The parameter as a DTensor cut along `dim`; the memory of the whole is free once nobody else holds it."""
        if parameter not in self.cut:
            begin, end = self.bounds(parameter.shape[dim])
            own = (
                parameter.detach()
                .narrow(dim, begin, end - begin)
                .clone(memory_format=torch.contiguous_format)
            )
            shape, stride = parameter.shape, parameter.stride()
            spread = DTensor.from_local(
                own, self.mesh, [Shard(dim)], run_check=False, shape=shape, stride=stride
            )
            self.cut[parameter] = nn.Parameter(spread, requires_grad=parameter.requires_grad)
        return self.cut[parameter]

    def enter(self, module: nn.Module) -> None:
        """Share what `module` is called with: everything in it computes with a part."""
        group = self.group  # not `self`, which holds the whole weights until all are cut

        def share(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(shared(x, group) if isinstance(x, Tensor) else x for x in inputs)

        module.register_forward_pre_hook(share)


def _column(layer: Linear, part: _Part) -> nn.Module:
    layer.weight = part.of(layer.weight)
    if layer.bias is not None:
        layer.bias = part.of(layer.bias)
    layer.product = _own_product
    return layer


def _own_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return linear(x, local(weight), None if bias is None else local(bias))


def _row(layer: Linear, part: _Part) -> nn.Module:
    layer.weight = part.of(layer.weight, dim=1)
    layer.product = functools.partial(_summed_product, group=part.group)
    return layer


def _summed_product(x: Tensor, weight: Tensor, bias: Tensor | None, *, group: Group) -> Tensor:
    product = summed(linear(x, local(weight)), group)
    return product if bias is None else product + bias


def _vocabulary(layer: nn.Module, part: _Part) -> nn.Module:
    if isinstance(layer, nn.Embedding):
        return _SharedEmbedding(layer, part)
    if not isinstance(layer, Linear):
        return layer  # what stands there when another stage of a pipeline has the layer
    vocab = len(layer.weight)
    _column(layer, part)
    ends = [bounds(vocab, place, part.places) for place in range(part.places)]
    sizes = [end - begin for begin, end in ends]
    layer.product = functools.partial(_gathered_product, sizes=sizes, group=part.group)
    return layer


def _gathered_product(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, sizes: list[int], group: Group
) -> Tensor:
    """All logits, for who asks the head itself; training's loss does without."""
    return gathered(_own_product(shared(x, group), weight, bias), sizes, group)


class _SharedEmbedding(nn.Embedding):
    """An embedding whose rows are shared out: each process looks up its own, and the sum is everyone's."""

    def __init__(self, whole: nn.Embedding, part: _Part) -> None:
        count, dim = whole.weight.shape
        super().__init__(count, dim, _weight=whole.weight.detach())
        self.weight = part.of(whole.weight)
        self.group, (self.begin, self.end) = part.group, part.bounds(count)
        self.last = part.place == part.places - 1

    def forward(self, input: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq dim"]:  # noqa: A002 - torch's
        # The first and the last one also look up what is in no vocabulary, and fail as an embedding does.
        elsewhere = input < self.begin if self.begin else torch.zeros_like(input, dtype=torch.bool)
        if not self.last:
            elsewhere |= input >= self.end
        rows = F.embedding((input - self.begin).masked_fill(elsewhere, 0), local(self.weight))
        return summed(rows.masked_fill(elsewhere[..., None], 0.0), self.group)


def _heads(module: nn.Module, part: _Part) -> nn.Module:
    if isinstance(module, Alibi):
        begin, end = part.bounds(len(module.slopes))
        return Alibi(module.slopes[begin:end])
    if isinstance(module, nn.Embedding):
        return _HeadsTable(module, part)
    assert isinstance(module, RMSNorm)
    return _HeadsNorm(module, part)


class _HeadsTable(nn.Embedding):
    """A table with a column for each head (T5's bias by distance): this process's columns."""

    def __init__(self, whole: nn.Embedding, part: _Part) -> None:
        count, heads = whole.weight.shape
        super().__init__(count, heads, _weight=whole.weight.detach())
        self.weight = part.of(whole.weight, dim=1)

    def forward(self, input: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape heads"]:  # noqa: A002 - torch's
        return F.embedding(input, local(self.weight))


class _HeadsNorm(RMSNorm):
    """A norm of each head with one weight for all of them: whole here, its gradient summed over everyone's heads."""

    def __init__(self, norm: RMSNorm, part: _Part) -> None:
        super().__init__(len(norm.weight), eps=norm.eps)
        self.weight, self.group = norm.weight, part.group

    def forward(self, x: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
        return F.rms_norm(x, self.weight.shape, shared(self.weight, self.group), self.eps)


CUTS: Mapping[str, Callable[[Any, _Part], nn.Module]] = {
    "column": _column,
    "row": _row,
    "vocabulary": _vocabulary,
    "heads": _heads,
}
"""By the word in a plan: from a module and this process's part, what stands in its place."""


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)
