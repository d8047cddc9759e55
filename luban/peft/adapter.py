"""What every method has in common: fewer trained weights on a model that stays as it is.

A method is one file: its config, and a function that applies it to a model and returns an `Adapter`. The stage that
trains calls the adapter's four moments (`loss`, `after_backward`, `before_step`, `after_step`); most methods need none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from luban.errors import ConfigError
from luban.nn import surgery
from luban.nn.surgery import Part, own_parameters


class Stored(Part):
    """A part whose weights a file holds."""

    def tensors(self) -> dict[str, Tensor]:
        """Its weights by the ends of their names in `peft`'s files, in the shapes they have there; views of them."""
        raise NotImplementedError


class Mergeable(Stored):
    """A part whose change can be put into its layer's weight."""

    def delta(self, layer: Any) -> Tensor:
        """What it adds to `layer.weight`, for a share of 1."""
        raise NotImplementedError


class Adapter:
    """A method applied to `model` under a name; the trained weights stand in the model, as attached parts."""

    def __init__(self, model: Any, method: str, config: Any, *, name: str = "default") -> None:
        self.model, self.method, self.config, self.name = model, method, config, name
        self.unmerged: dict[str, Tensor] = {}
        """The weights of layers, by name, as they were before `merge`."""

    def parts(self) -> dict[str, tuple[Any, Part]]:
        """Each layer it works in, by name, with the layer and the part."""
        return {place: (layer, part) for place, layer, part in surgery.parts(self.model, self.name)}

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """What a file holds of it: for each layer, by name, its part's weights; "" is for those of no layer."""
        return {
            place: part.tensors() for place, (_, part) in self.parts().items() if isinstance(part, Stored)
        }

    def trained(self) -> dict[str, nn.Parameter]:
        """The weights that are trained, by name."""
        return {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    def remove(self) -> None:
        """Leave the model as it was before, to the bit."""
        self.unmerge()
        for layer, _ in self.parts().values():
            surgery.detach(layer, self.name)

    @torch.no_grad()
    def merge(self, share: float = 1.0, *, for_good: bool = False) -> None:
        """Put `share` of the change into the layers' weights and let the parts rest; raises ConfigError if it cannot.

        The weights as they were are kept for `unmerge`; `for_good` saves that memory and takes the parts off.
        """
        assert not self.unmerged, "merged already"
        for place, (layer, part) in self._mergeable().items():
            if not for_good:
                self.unmerged[place] = layer.weight.clone()
            layer.weight += share * part.delta(layer).to(layer.weight.dtype)
            part.share = 0.0
            if for_good:
                surgery.detach(layer, self.name)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take a merged change out of the weights again, to the bit; nothing if there is none."""
        for place, (layer, part) in self.parts().items() if self.unmerged else ():
            layer.weight.copy_(self.unmerged.pop(place))
            part.share = 1.0

    def _mergeable(self) -> dict[str, tuple[Any, Mergeable]]:
        found = {
            place: (layer, part)
            for place, (layer, part) in self.parts().items()
            if isinstance(part, Mergeable)
        }
        if not found or len(found) < len(self.parts()):
            what = f"{self.method} computes what no single weight does: it cannot be merged"
            raise ConfigError(what, where="merge")
        return found

    def loss(self) -> Tensor | None:
        """What training minimises beside the task's loss, per target; None for nothing."""
        return None

    def after_backward(self) -> None:
        """Change gradients before they are clipped and applied."""

    def after_step(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> None:
        """Change weights or the optimizer after step `step` (from 1) of `steps`."""

    def state(self) -> dict[str, Any]:
        """What an exact resume needs beside the weights; JSON."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""


@dataclass(frozen=True)
class Method:
    """A method as the table `METHODS` has it."""

    config: type[Any]
    apply: Callable[..., Adapter]
    """`apply(model, config, name=...)`."""
    peft_type: str | None
    """How `adapter_config.json` calls it; None where `peft` does not know it."""
    summary: str
    paper: str


def freeze(model: nn.Module) -> None:
    """Let nothing of the model's own be trained."""
    for parameter in own_parameters(model).values():
        parameter.requires_grad_(False)


def attach_all(model: Any, patterns: Sequence[str], kinds: tuple[type[nn.Module], ...], name: str,
               make: Callable[[Any], Part]) -> None:  # fmt: skip
    """`make(layer)` into each layer that a pattern means, on its device; the model's own weights are frozen.

    The head is refused: losses and samplers use its weight directly, so a part of it would be passed by.
    """
    found = surgery.matching(model, patterns, *kinds)
    if any(layer is getattr(model, "head", None) for layer in found.values()):
        raise ConfigError(
            "the head cannot have an adapter: its weight is used directly", where="target_modules"
        )
    freeze(model)
    for layer in found.values():
        surgery.attach(layer, name, make(layer).to(layer.weight.device))


@contextmanager
def switched_off(model: nn.Module) -> Iterator[None]:
    """Within the block the model computes as it did before any adapter (the reference of DPO and PPO)."""
    with surgery.shared(model, {}):
        yield
