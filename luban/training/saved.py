"""How much memory a training step on this machine takes, found by a forward pass on tensors that have no memory.

Autograd is asked what it saves, so activations are right for every family and follow the code when that changes.
Shapes alone are computed (PyTorch's fake tensors): a model of any size takes about a second and no memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode

from luban.models import FAMILIES
from luban.nn import passes
from luban.nn.kernels import imagined
from luban.training.memory import LOGIT_COPIES, QUICK_LOGIT_COPIES, adapted_bytes, logits_bytes, state_bytes
from luban.training.weights import Adapt, hollow, weights_of

COMPILED_KEEPS = 1.28
"""What torch.compile keeps, over what eager blocks do, which make norms and the MLP's product again (torch 2.13)."""

RUNTIME_BYTES = {"eager": 100e6, "compiled": 225e6}
"""What torch itself takes once it trains on a CPU: kernels' code, their scratch, threads; the compiler, if used."""

HEAP_SHARE = {"whole": 0.55, "few": 0.42}
"""What a block's backward pass needs for a moment, and memory the C library holds beyond what tensors fill: as a share
of those that come and go in a step; less where few weights get gradients. Fitted, with the two above, to peaks of
three shapes in `benchmarks/memory.py`, and for few weights to LoRA and QLoRA in `benchmarks/tuned/memory.py`."""


@dataclass
class Saved:
    """Bytes that a forward pass keeps for its gradients, weights not among them."""

    blocks: int = 0
    """Inside blocks, of all of them."""
    ends: int = 0
    """Before, between and after them."""
    inputs: list[int] = field(default_factory=list)
    """Each block's input."""

    @property
    def total(self) -> int:
        """All that is kept."""
        return self.blocks + self.ends

    @property
    def recomputing(self) -> int:
        """All that is kept where blocks are computed again: their inputs, and one block at a time."""
        return self.ends + sum(self.inputs) + self.blocks // max(1, len(self.inputs))


def training_bytes(
    config: Any,
    parameters: int,
    *,
    rows: int,
    seq: int,
    compiled: bool = False,
    recompute: bool = False,
    accumulated: bool = False,
    adapt: Adapt | None = None,
) -> dict[str, float]:
    """Bytes of one process that trains in float32 on a CPU, by part, beyond an idle Python with torch imported.

    With `adapt` it trains what that leaves to train, and `parameters` do not count. Gradients are what they take
    beyond the activations' memory; all of it where they are `accumulated` over several micro-batches.
    """
    saved = saved_by(config, rows=rows, seq=seq, adapt=adapt)
    kept = saved.recomputing if recompute else saved.total
    states, weights = state_bytes(parameters, precision="float32"), None
    if adapt is not None:
        weights = weights_of(hollow(config, adapt))
        states = adapted_bytes(quantised=weights.quantised, kept=weights.kept, trained=weights.trained)
    head = config.vocab if weights is None or weights.head else 0
    head_and_states = 4 * config.dim * (head + rows * seq)  # their gradients, which the loss takes at once
    copies = QUICK_LOGIT_COPIES if passes.KERNELS.available() else LOGIT_COPIES
    come_and_go = {
        "activations": kept * (COMPILED_KEEPS if compiled else 1.0),
        "logits": logits_bytes(config.vocab, rows * seq, copies=copies) + head_and_states,
    }
    if not accumulated:  # gradients come as activations go, into the same memory
        states["gradients"] = max(0.0, states["gradients"] - sum(come_and_go.values()))
    parts = {
        **states,
        **come_and_go,
        "heap": HEAP_SHARE["whole" if weights is None else "few"] * sum(come_and_go.values()),
        "runtime": RUNTIME_BYTES["compiled" if compiled else "eager"],
    }
    return {**parts, "total": sum(parts.values())}


def saved_by(config: Any, *, rows: int, seq: int, adapt: Adapt | None = None) -> Saved:
    """What a float32 pass of `rows` packed rows through embedding, blocks and norm keeps, of a model as `adapt` has it.

    Experts count as evenly used, a row as one document, an encoder-decoder's texts as `seq` tokens on each side.
    """
    model = hollow(config, adapt)
    with FakeTensorMode(), imagined(FakeTensor):
        _without_memory(model)
        return _counted(model, rows, seq)


def _counted(model: Any, rows: int, seq: int) -> Saved:
    weights = {weight.untyped_storage()._cdata for weight in model.parameters()}
    kept: dict[
        int, Any
    ] = {}  # storages, as several tensors may be views of one; held, as places are used again
    saved, inside = Saved(), list[nn.Module]()

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in kept and storage._cdata not in weights:
            kept[storage._cdata] = storage
            part = "blocks" if inside else "ends"
            setattr(saved, part, getattr(saved, part) + storage.nbytes())
        return tensor

    def enter(block: nn.Module, arguments: tuple[Any, ...]) -> None:
        inside.append(block)
        saved.inputs.append(arguments[0].nbytes)

    hooks: list[Any] = []
    for block in _blocks(model):
        hooks.append(block.register_forward_pre_hook(enter))
        hooks.append(block.register_forward_hook(lambda *_: inside.pop() and None))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), _Supposed():
        keep(_states(model, torch.zeros(rows, seq, dtype=torch.long)))
    for hook in hooks:
        hook.remove()
    return saved


def _blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks of `model`, an encoder's too, each once."""
    lists = (getattr(module, "blocks", None) for module in model.modules())
    return list(
        dict.fromkeys(block for found in lists if isinstance(found, nn.ModuleList) for block in found)
    )


def _states(model: Any, tokens: Tensor) -> Tensor:
    if FAMILIES[model.config.model_type].kind == "seq2seq":
        return model.hidden(tokens, model.encode(tokens))
    return model.hidden(tokens, None, model.isolate(torch.zeros_like(tokens)))


def _without_memory(model: nn.Module) -> None:
    """Replace all weights by fake ones of the CPU, whose kernels save what the CPU's save; tied ones come apart."""
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                made = torch.empty(weight.shape, dtype=weight.dtype)
                module._parameters[name] = nn.Parameter(made, requires_grad=weight.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


class _Supposed(TorchFunctionMode):
    """Answers where a family asks a tensor for numbers: counts are even, marks not set, a place is the first."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.bincount:
            choices, bins = args[0].numel(), (kwargs or {})["minlength"]
            return _Counts(choices // bins + (place < choices % bins) for place in range(bins))
        if func in (Tensor.item, Tensor.__int__):
            return 0
        return func(*args, **(kwargs or {}))


class _Counts(list[int]):
    def tolist(self) -> list[int]:
        """The counts, as a tensor would give them."""
        return self
