"""Weights and optimizer state of a spread model: written in parts, read back into any other layout.

Every tensor has one name, whatever process holds it or a part of it: `model.blocks.0.norm.weight`,
`optimizer.blocks.0.norm.weight.exp_avg`. PyTorch's distributed checkpoint (DCP) writes what each process holds
and, on reading, hands each one the pieces it asks for.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn

from luban.errors import CheckpointError
from luban.training.parallel.whole import fill, names
from luban.training.parallel.world import World


def write(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write what all processes hold into `folder`; they call this together."""
    dcp.save(tensors(model, optimizer), checkpoint_id=folder)


def read(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, world: World) -> None:
    """Put what `write` wrote into a fresh model and optimizer of any layout, in place.

    Raises CheckpointError naming a weight that the checkpoint does not have.
    """
    stored = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    shapes = {name: torch.Size(getattr(entry, "size", ())) for name, entry in stored.items()}
    missing = [name for name in names(model).values() if f"model.{name}" not in shapes]
    if missing:
        raise CheckpointError(f"the checkpoint has no weight '{missing[0]}'", where=folder)
    _make_room(model, optimizer, shapes)
    with warnings.catch_warnings():  # one process is what is meant
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        dcp.load(tensors(model, optimizer), checkpoint_id=folder, no_dist=world.size == 1)


def put(whole: Mapping[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put whole tensors, under the names `write` gives, into a fresh model and optimizer of any layout."""
    _make_room(model, optimizer, {name: tensor.shape for name, tensor in whole.items()})
    for name, held in tensors(model, optimizer).items():
        fill(held, whole[name])


def tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What this process holds, or its parts of it, by name; writing into them changes model and optimizer."""
    known = names(model)
    held = {f"model.{name}": parameter.detach() for parameter, name in known.items()}
    for parameter, entries in _own(optimizer).state.items():
        for key, value in entries.items():
            held[f"optimizer.{known[cast(nn.Parameter, parameter)]}.{key}"] = value
    return held


def named(
    weights: Mapping[str, Tensor], moments: Mapping[str, Any], order: Iterable[str]
) -> dict[str, Tensor]:
    """A one-process checkpoint under the names that `write` gives: its weights, and its optimizer's `state_dict`."""
    whole = {f"model.{name}": weight for name, weight in weights.items()}
    for number, name in enumerate(order):
        for key, value in moments["state"].get(number, {}).items():
            whole[f"optimizer.{name}.{key}"] = value
    return whole


def _own(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer of what this process moves: a ZeroRedundancyOptimizer has it inside."""
    return getattr(optimizer, "optim", optimizer)


def _make_room(model: nn.Module, optimizer: torch.optim.Optimizer, shapes: Mapping[str, torch.Size]) -> None:
    """Give the optimizer zeros for all it has in `shapes`: what its first step would make."""
    known = names(model)
    keys: dict[str, list[str]] = {}
    for full in (name for name in shapes if name.startswith("optimizer.")):
        name, _, key = full.removeprefix("optimizer.").rpartition(".")
        keys.setdefault(name, []).append(key)
    own = _own(optimizer)
    for parameter in (parameter for group in own.param_groups for parameter in group["params"]):
        name = known[parameter]
        for key in keys.get(name, []):
            alike = shapes[f"optimizer.{name}.{key}"] == parameter.shape
            # The counter of steps has no shape; fused AdamW keeps it where the parameter is.
            zero = torch.zeros_like(parameter) if alike else torch.zeros((), device=parameter.device)
            own.state[parameter][key] = zero.detach()
