"""How Hugging Face calls and lays out a family's weights: a table, read in both directions.

A table maps HF's names of modules (or of parameters) to ours, `*` standing for a layer's or an expert's number.
Loading and saving both follow the plan made from it: which tensors a file must hold, and which parameters each of
them is made of.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
    """Ends of names that files may hold and nothing reads: masks and rotation tables, computed here."""
    head: str = "lm_head.weight"
    """HF's name of the head, which a tied model's file may leave out or repeat."""
    copies: tuple[str, ...] = ()
    """HF's other names of the embedding, under which a file may repeat it."""
    older: Mapping[str, str] = field(default_factory=dict)
    """Ends of names in older files, with what stands there today."""

    def today(self, written: str) -> str:
        """The name of a file's tensor without an older end."""
        for end, now in self.older.items():
            if written.endswith(end):
                return written.removesuffix(end) + now
        return written


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


def plan(names: Names, parameters: Mapping[str, Tensor]) -> dict[str, Stored]:
    """For each tensor of a file, by HF's name: what it holds. Covers every one of `parameters` once."""
    stored: dict[str, Stored] = {}
    for pattern, target in names.modules.items():
        stored |= _tensors(pattern, target, parameters)
    covered = sorted(name for entry in stored.values() for name in entry.parameters)
    assert covered == sorted(parameters), set(parameters) ^ set(covered)
    return stored


def _tensors(pattern: str, target: str | Fused, parameters: Mapping[str, Tensor]) -> dict[str, Stored]:
    """What one line of the table names: the weights and biases of modules, or parameters themselves."""
    modules = target.modules if isinstance(target, Fused) else (target,)
    leading = re.compile(re.escape(modules[0]).replace(r"\*", r"(\d+)") + r"(\.weight|\.bias|)")
    stored = {}
    for name in parameters:
        if found := leading.fullmatch(name):
            *numbers, leaf = found.groups()
            members = tuple(_numbered(module, numbers) + leaf for module in modules)
            transposed = isinstance(target, Fused) and leaf == ".weight"
            stored[_numbered(pattern, numbers) + leaf] = Stored(members, transposed)
    return stored


def _numbered(pattern: str, numbers: Sequence[str]) -> str:
    """`pattern` with its stars replaced."""
    left = iter(numbers)
    return re.sub(r"\*", lambda _: next(left), pattern)


def module_names(names: Names, parameters: Mapping[str, Tensor]) -> dict[str, str]:
    """HF's name of each module of ours that has a weight; those that a file fuses share one, in its order."""
    return {
        ours.removesuffix(".weight"): theirs.removesuffix(".weight")
        for theirs, stored in plan(names, parameters).items()
        if theirs.endswith(".weight")
        for ours in stored.parameters
    }
