"""A spread model as one: its names, its whole weights gathered or dealt out.

Needed by every run, also of one process, so PyTorch's distributed tensors are imported only where there are some.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from luban.models import hf
from luban.training.parallel.norms import is_part, local
from luban.training.parallel.world import World


def names(model: Any) -> dict[nn.Parameter, str]:
    """The name of each parameter in the whole model.

    A tied head that stands alone, on a pipeline's last stage, is the embedding.
    """
    alone = model.config.tied and "embedding.weight" not in dict(model.named_parameters())
    return {
        parameter: "embedding.weight" if alone and name == "head.weight" else name
        for name, parameter in model.named_parameters()
    }


def optimizer_order(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Names of the parameters in the order in which the optimizer's own `state_dict` numbers them."""
    known = names(model)
    return [known[parameter] for group in optimizer.param_groups for parameter in group["params"]]


def gathered(model: Any, world: World) -> Any:
    """The whole model on the main process, None on the others; they call this together.

    It is `model` itself where that is whole already.
    """
    if world.pp == 1 and not any(map(is_part, model.parameters())):
        return model if world.main else None
    weights = _whole_weights(model, world)
    if not world.main:
        return None
    return _filled(model.config, weights)


def everywhere(model: Any, device: torch.device) -> Any:
    """The whole model on `device` of every copy, to draw from or to read with; they call this together.

    It is `model` itself where that is whole already, else a copy that lasts as long as it is held.
    """
    if not any(map(is_part, model.parameters())):
        return model
    weights = {name: joined(weight.detach()).to(device) for weight, name in names(model).items()}
    return _filled(model.config, weights)


def _whole_weights(model: nn.Module, world: World) -> dict[str, Tensor]:
    """All weights, whole, on the main process; a parameter is gathered at a time."""
    kept = world.place("dp") == world.place("tp") == 0
    weights = {}
    for parameter, name in names(model).items():
        whole = joined(parameter.detach())
        if kept:
            weights[name] = whole.cpu()
    if world.pp == 1 or not kept:
        return weights
    stages: list[dict[str, Tensor]] | None = [{}] * world.pp if world.main else None
    dist.gather_object(weights, stages, group=world.group("pp"), group_dst=0)
    return {name: weight for stage in stages or [] for name, weight in stage.items()}


def _filled(config: Any, weights: Mapping[str, Tensor]) -> Any:
    whole = hf.hollow(config)
    whole.load_state_dict(weights, assign=True, strict=not config.tied)
    if config.tied:
        whole.tie()
    return whole.requires_grad_(False)


def joined(part: Any) -> Tensor:
    """All processes' parts of a tensor as one; a tensor that is whole as it is.

    Axis by axis: at once, PyTorch warns where both cut the same rows.
    """
    if not is_part(part):
        return part
    from torch.distributed.tensor import Replicate

    placements = list(part.placements)
    for axis in range(len(placements)):
        placements[axis] = Replicate()
        part = part.redistribute(placements=placements)
    return part.to_local()


def put_weights(whole: Mapping[str, Tensor], model: nn.Module) -> None:
    """Put whole weights, by their names in the model, into a model of any layout."""
    for parameter, name in names(model).items():
        fill(parameter.detach(), whole[name])


@torch.no_grad()
def fill(held: Tensor, whole: Tensor) -> None:
    """Write this process's part of `whole` into `held`."""
    if is_part(held):
        from torch.distributed.tensor import distribute_tensor

        mesh, placements = cast(Any, held).device_mesh, cast(Any, held).placements
        whole = local(distribute_tensor(whole.to(mesh.device_type), mesh, placements, src_data_rank=None))
        held = local(held)
    held.copy_(whole)
