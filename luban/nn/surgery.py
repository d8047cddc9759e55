"""Change what a model's layers compute from outside, by pattern, and leave everything as it was.

A `Part` is attached to a layer: it sees what goes in and what comes out and may change both. It stands in the layer
as a submodule, so devices, optimizers and sharding find its weights; the layer's own weights, names and files stay
what they are (`own_parameters`). Several parts of different names may stand in one layer, each with its `share`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from luban.errors import ConfigError, nearest

ATTACHED = "attached"
"""The submodule of a layer that holds its parts by name."""


class Part(nn.Module):
    """Something attached to a layer; this one changes nothing."""

    share = 1.0
    """How much of the change is made: 0 leaves the layer as it is."""

    def before(self, layer: Any, x: Tensor) -> Tensor:  # noqa: ARG002 - for parts that change the input
        """The layer's input."""
        return x

    def after(self, layer: Any, x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002 - for parts that change the output
        """The layer's output `y` of input `x`."""
        return y


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern means the module `name`: it tells the last parts, `*` being any and `q|v` either of two.

    >>> matches("q|v", "blocks.0.attention.v"), matches("blocks.0.*.v", "blocks.1.attention.v")
    (True, False)
    """
    wanted, parts = pattern.split("."), name.split(".")
    last = parts[-len(wanted) :]
    return len(last) == len(wanted) and all(
        w == "*" or part in w.split("|") for w, part in zip(wanted, last, strict=True)
    )


def matching(model: nn.Module, patterns: Sequence[str], *kinds: type[nn.Module]) -> dict[str, Any]:
    """The modules of one of `kinds` that a pattern means, by name; raises ConfigError for one that means none."""
    modules = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, kinds) and ATTACHED not in name.split(".")
    }
    found: dict[str, Any] = {}
    for pattern in patterns:
        meant = {name: module for name, module in modules.items() if matches(pattern, name)}
        if not meant:
            advice = nearest(pattern, {name.rpartition(".")[2] for name in modules})
            raise ConfigError(f"'{pattern}' matches no layer of this model; {advice}", where="target_modules")
        found |= meant
    return found


def attach(layer: Any, name: str, part: Part) -> None:
    """Let `part` work in `layer` from now on, under `name`, after those that are there."""
    if ATTACHED not in layer._modules:
        layer.attached = nn.ModuleDict()
        layer.__dict__["attached_hooks"] = (
            layer.register_forward_pre_hook(_before),
            layer.register_forward_hook(_after),
        )
    assert name not in layer.attached, f"'{name}' is attached already"
    layer.attached[name] = part


def detach(layer: Any, name: str) -> None:
    """Take the part `name` off `layer`; the last one leaves no trace."""
    del layer.attached[name]
    if not layer.attached:
        for hook in layer.__dict__.pop("attached_hooks"):
            hook.remove()
        del layer.attached


def put(model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    """Let each of `layers` stand where the model has the module of its name."""
    for name, layer in layers.items():
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layer)


def parts(model: nn.Module, name: str | None = None) -> Iterator[tuple[str, Any, Part]]:
    """Each layer that has a part, by name, with the layer and the part; of one name only, where it is given."""
    for place, layer in model.named_modules():
        held: Any = layer._modules.get(ATTACHED)
        for own, part in held.items() if held is not None else ():
            if name is None or own == name:
                yield place, layer, part


@contextmanager
def shared(model: nn.Module, shares: dict[str, float]) -> Iterator[None]:
    """Within the block each attached name works with its share of `shares`, the others not at all."""
    before = [(part, part.share) for _, _, part in parts(model)]
    try:
        for _, layer, _ in parts(model):
            for name, part in layer.attached.items():
                part.share = shares.get(name, 0.0)
        yield
    finally:
        for part, share in before:
            part.share = share


def own_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The model's parameters by name, without those of attached parts."""
    return {name: value for name, value in model.named_parameters() if ATTACHED not in name.split(".")}


def _before(layer: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    x, *rest = inputs
    for part in layer.attached.values():
        if part.share:
            x = part.before(layer, x)
    return (x, *rest)


def _after(layer: Any, inputs: tuple[Any, ...], y: Tensor) -> Tensor:
    for part in layer.attached.values():
        if part.share:
            y = part.after(layer, inputs[0], y)
    return y
