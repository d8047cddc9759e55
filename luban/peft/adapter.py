"""What every method has in common: fewer trained weights on a model that stays as it is.

A method is one file: its config, and a function that applies it to a model and returns an `Adapter`. The stage that
trains calls the adapter's moments (`before_training`, `loss`, `after_backward`, `after_step`); most methods need none.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from luban.errors import ConfigError
from luban.models.headed import Headed
from luban.nn import surgery
from luban.nn.quantize import dequantise, is_quantised
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

    def bias_delta(self, layer: Any) -> Tensor | None:  # noqa: ARG002 - most leave the bias as it is
        """What it adds to `layer.bias`, for a share of 1; None for nothing."""
        return None


class Adapter:
    """A method applied to `model` under a name; the trained weights stand in the model, as attached parts."""

    changes_base = False
    """Whether training changes the model's own weights for good, so that an adapter's file alone is not enough."""

    def __init__(self, model: Any, method: str, config: Any, *, name: str = "default") -> None:
        self.model, self.method, self.config, self.name = model, method, config, name
        self.unmerged: dict[str, Tensor] = {}
        """The weights of layers, and biases that change, by name, as they were before `merge`."""
        self.packed: Mapping[str, nn.Module] = {}
        """The quantised layers that `merge` replaced by plain ones."""

    @property
    def places(self) -> int:
        """How many places of the model's window it takes from every text."""
        return 0

    def parts(self) -> dict[str, tuple[Any, Part]]:
        """Each layer it works in, by name, with the layer and the part."""
        return {place: (layer, part) for place, layer, part in surgery.parts(self.model, self.name)}

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """What a file holds of it: for each layer, by name, its part's weights; "" is for those of no layer."""
        return {
            place: part.tensors() for place, (_, part) in self.parts().items() if isinstance(part, Stored)
        }

    def entries(self, names: Mapping[str, str]) -> dict[str, Any]:  # noqa: ARG002 - some name layers
        """What `adapter_config.json` says of it; `names` has the files' name of each layer."""
        return dataclasses.asdict(self.config)

    def fit(self, held: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take the shapes of a file's tensors, as `tensors` has them, before they are filled in."""

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

        The weights as they were are kept for `unmerge`; `for_good` saves that memory and takes the parts off. Quantised
        layers become plain ones: the model can then be saved.
        """
        assert not self.unmerged, "merged already"
        self.mergeable()
        packed = dequantise(self.model)
        self.packed = {} if for_good else packed
        self.model.__dict__.setdefault("merged", []).extend([] if for_good else [self.name])
        for place, (layer, part) in self.mergeable().items():
            changes = {"weight": part.delta(layer), "bias": part.bias_delta(layer)}
            for own, change in changes.items():
                if change is not None:
                    weight = getattr(layer, own)
                    self.unmerged |= {} if for_good else {f"{place}.{own}": weight.clone()}
                    weight.copy_(weight + share * change)  # rounded once
            part.share = 0.0
            if for_good:
                surgery.detach(layer, self.name)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take a merged change out of the weights again, to the bit; nothing if there is none."""
        if self.unmerged:
            assert self.model.merged.pop() == self.name, "unmerge the last merged first"
        for _, part in self.parts().values() if self.unmerged else ():
            part.share = 1.0
        while self.unmerged:
            name, before = self.unmerged.popitem()
            place, _, own = name.rpartition(".")
            getattr(self.model.get_submodule(place), own).copy_(before)
        surgery.put(self.model, self.packed)
        self.packed = {}

    def mergeable(self) -> dict[str, tuple[Any, Mergeable]]:
        """`parts`, after a check that merging them changes what they change and nothing else; else ConfigError."""
        found = {
            place: (layer, part)
            for place, (layer, part) in self.parts().items()
            if isinstance(part, Mergeable)
        }
        if not found or len(found) < len(self.parts()):
            what = f"{self.method} computes what no single weight does: it cannot be merged"
            raise ConfigError(what, where="merge")
        head = getattr(self.model, "head", None)
        shared = getattr(head, "weight", None)
        for place, (layer, _) in found.items():
            if shared is not None and head is not layer and shared is layer.weight:
                what = f"the weight of '{place}' is the head's too: merging would change the head"
                raise ConfigError(what, where="merge", hint="untie the head, or adapt other layers")
        return found

    def before_training(self, batches: Iterable[Any], objective: Callable[[Any, Any], Any]) -> None:
        """Look at some of the data before step 1; `objective` is the stage's, `(model, batch) -> Step`."""

    def loss(self) -> Tensor | None:
        """What training minimises beside the task's loss, per target; None for nothing."""
        return None

    def after_backward(self) -> None:
        """Change gradients before they are clipped and applied."""

    def after_step(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> None:
        """Change weights or the optimizer after step `step` (from 1) of `steps`."""

    def rate_factor(self, step: int, steps: int) -> float:  # noqa: ARG002 - for methods with a schedule of their own
        """What the learning rate of step `step` (from 1) of `steps` is multiplied by."""
        return 1.0

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
    ignored: tuple[str, ...] = ()
    """Entries of `peft`'s for it that say nothing we need."""
    read: Callable[[Mapping[str, Mapping[str, Tensor]]], dict[str, Any]] = lambda _: {}
    """Settings that the file's tensors tell, by our layers and the ends of their names."""


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
    made = {place: make(layer) for place, layer in found.items()}  # first, as it may refuse a layer
    freeze(model)
    for place, layer in found.items():
        device = next(itertools.chain(layer.parameters(), layer.buffers())).device
        surgery.attach(layer, name, made[place].to(device))


def head_layers(model: nn.Module) -> tuple[str, ...]:
    """The layers of a model's head for a task, an encoder's pooler with it; none where it has no such head."""
    if not isinstance(model, Headed):
        return ()
    return ("score", "backbone.pooler") if getattr(model.backbone, "pooler", None) is not None else ("score",)


def base_hash(model: nn.Module) -> str:
    """A name for the model's own weights, as they are without adapters: each one's name, shape and a few values.

    A head for a task does not count, which an adapter's file brings along; nothing is said of weights without memory.
    Of a quantised model, the name of what was quantised (`qlora.apply` writes it down): adapters go on either.
    """
    if is_quantised(model) and (before := getattr(model, "quantised_from", None)):
        return before
    digest = hashlib.sha256()
    in_head = tuple(f"{layer}." for layer in head_layers(model))
    with switched_off(model):
        for name, weight in sorted(own_parameters(model).items()):
            if weight.is_meta or name.startswith(in_head):
                continue
            flat = weight.detach().flatten()
            few = flat[:: max(1, len(flat) // 256)].bfloat16().float().cpu()  # the same however it was loaded
            digest.update(f"{name} {tuple(weight.shape)}".encode() + few.numpy().tobytes())
    return digest.hexdigest()[:32]


@contextmanager
def switched_off(model: nn.Module) -> Iterator[None]:
    """Within the block the model computes as it did before any adapter (the reference of DPO and PPO)."""
    with surgery.shared(model, {}):
        yield
