"""How Hugging Face calls and lays out a family's weights: a table, read in both directions.

A table maps HF's module names to ours, `*` standing for a layer's number. Loading and saving both follow the
plan made from it: which tensors a file must hold, and which parameters each of them is made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Fused:
    """An HF module that holds several of ours, their outputs stacked, as [inputs, outputs] (GPT-2's Conv1D)."""

    modules: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Names:
    """One family's table."""

    modules: Mapping[str, str | Fused]
    prefix: str
    """What HF's names begin with and files of a model without head leave out: `model.`, `transformer.`."""
    buffers: tuple[str, ...]
    """Ends of names that old files hold and nothing reads: masks and rotation tables, computed here."""


@dataclass(frozen=True)
class Stored:
    """One tensor of a file: the parameters it holds, and whether it is their transpose."""

    parameters: tuple[str, ...]
    transposed: bool

    def shape(self, parameters: Mapping[str, Tensor]) -> list[int]:
        """The shape the file's tensor has."""
        first, *rest = parameters[self.parameters[0]].shape
        shape = [first * len(self.parameters), *rest]
        return shape[::-1] if self.transposed else shape

    def split(self, tensor: Tensor) -> dict[str, Tensor]:
        """Our parameters out of the file's tensor."""
        parts = (tensor.t() if self.transposed else tensor).chunk(len(self.parameters))
        return dict(zip(self.parameters, parts, strict=True))

    def join(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The file's tensor out of our parameters; the inverse of `split`."""
        parts = [parameters[name].detach() for name in self.parameters]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        return (whole.t() if self.transposed else whole).contiguous()


def plan(names: Names, parameters: Mapping[str, Tensor], *, layers: int) -> dict[str, Stored]:
    """For each tensor of a file, by HF's name: what it holds. Covers every one of `parameters` once."""
    stored: dict[str, Stored] = {}
    for pattern, target in names.modules.items():
        for layer in range(layers) if "*" in pattern else [0]:
            stored |= _tensors(pattern, target, layer, parameters)
    covered = sorted(name for entry in stored.values() for name in entry.parameters)
    assert covered == sorted(parameters), set(parameters) ^ set(covered)
    return stored


def _tensors(
    pattern: str, target: str | Fused, layer: int, parameters: Mapping[str, Tensor]
) -> dict[str, Stored]:
    """The weight and bias, where there are such, of one HF module in one layer."""
    modules = target.modules if isinstance(target, Fused) else (target,)
    stored = {}
    for leaf in ("weight", "bias"):
        members = tuple(f"{module}.{leaf}".replace("*", str(layer)) for module in modules)
        if members[0] in parameters:
            transposed = isinstance(target, Fused) and leaf == "weight"
            stored[f"{pattern}.{leaf}".replace("*", str(layer))] = Stored(members, transposed)
    return stored
