"""One training step, looked at from several sides: by phase, by kind of module, by operator, by bytes.

`luban profile` shows what these find.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile

from luban.data.batch import Batch
from luban.folder import atomic_file
from luban.training.losses import CHUNK_TOKENS
from luban.training.step import Accumulated, Step, Sums, next_token
from luban.training.trial import updater

MakeBatch = Callable[[], Batch]


class Stopwatch:
    """Seconds by name; on an accelerator a time is taken when its queue has run dry."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    def now(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def during(self, name: str) -> Iterator[None]:
        """Add the block's seconds to `name`."""
        begun = self.now()
        yield
        self.seconds[name] += self.now() - begun


class _TimedGradients(Accumulated):
    """`Accumulated`, whose parts are timed: what is neither forward pass nor loss is backward."""

    watch: Stopwatch

    def sum(self, batches: Sequence[Batch], *, scale: float = 1.0) -> Sums:
        before = self.watch.seconds["forward"] + self.watch.seconds["loss"]
        with self.watch.during("backward"):
            found = super().sum(batches, scale=scale)
        self.watch.seconds["backward"] -= self.watch.seconds["forward"] + self.watch.seconds["loss"] - before
        return found

    def norm(self) -> float:
        with self.watch.during("gradient norm"):
            return super().norm()


def phases(
    model: Any, hidden: Callable[..., Tensor], make_batch: MakeBatch, *, steps: int
) -> dict[str, float]:
    """Median seconds of each phase of a step, and of the whole `step`; `other` is what no phase claims.

    The phases are those of the median step, so they add up to it.
    """
    watch = Stopwatch(model.embedding.weight.device)

    def timed_hidden(*inputs: Any) -> Tensor:
        with watch.during("forward"):
            return hidden(*inputs)

    plain = next_token(timed_hidden)

    def objective(model: Any, batch: Batch) -> Step:
        before = watch.seconds["forward"]
        with watch.during("loss"):
            step = plain(model, batch)
        watch.seconds["loss"] -= watch.seconds["forward"] - before
        return step

    ours = updater(model, objective)
    gradients = _TimedGradients(model, objective)
    gradients.watch, ours.gradients = watch, gradients
    _time_optimizer(ours.optimizer, watch)
    found = [_phases_of_a_step(watch, ours, make_batch) for _ in range(steps + 2)][2:]
    middle = statistics.median_low(each["step"] for each in found)
    return next(each for each in found if each["step"] == middle)


def _time_optimizer(optimizer: torch.optim.Optimizer, watch: Stopwatch) -> None:
    begun = [0.0]

    def begin(*_: Any) -> None:
        begun[0] = watch.now()

    def end(*_: Any) -> None:
        watch.seconds["optimizer"] += watch.now() - begun[0]

    optimizer.register_step_pre_hook(begin)
    optimizer.register_step_post_hook(end)


def _phases_of_a_step(watch: Stopwatch, ours: Any, make_batch: MakeBatch) -> dict[str, float]:
    names = ("data", "forward", "loss", "backward", "gradient norm", "optimizer")
    watch.seconds = defaultdict(float)
    begun = watch.now()
    with watch.during("data"):
        batch = make_batch()
    ours.update([batch], learning_rate=0.0)
    whole = watch.now() - begun
    found = {name: watch.seconds[name] for name in names}
    return {**found, "other": whole - sum(found.values()), "step": whole}


def module_seconds(model: Any, make_batch: MakeBatch, *, steps: int) -> dict[str, dict[str, float]]:
    """Seconds per step in each kind of module (a block's direct parts, and the final norm), both ways."""
    watch = Stopwatch(model.embedding.weight.device)
    parts = [part for block in model.blocks for part in block.children()]
    parts += [child for name, child in model.named_children() if name in ("embedding", "norm")]
    handles = [handle for part in parts for handle in _hooks(part, watch)]
    ours = updater(model)
    try:
        for step in range(steps + 1):
            if step == 1:
                watch.seconds = defaultdict(float)
            ours.update([make_batch()], learning_rate=0.0)
    finally:
        for handle in handles:
            handle.remove()
    kinds = list(dict.fromkeys(type(part).__name__ for part in parts))
    return {
        kind: {way: watch.seconds[f"{kind} {way}"] / steps for way in ("forward", "backward")}
        for kind in kinds
    }


def _hooks(part: nn.Module, watch: Stopwatch) -> list[Any]:
    """Take the time from a module's input to its output, and from its output's gradient to its input's.

    An embedding's input has no gradient, so its backward pass is not seen.
    """
    begun: dict[str, float] = {}

    def begin(way: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            begun[way] = watch.now()

        return hook

    def end(way: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            watch.seconds[f"{type(part).__name__} {way}"] += watch.now() - begun[way]

        return hook

    handles: list[Any] = [
        part.register_forward_pre_hook(begin("forward")),
        part.register_forward_hook(end("forward")),
    ]
    if not isinstance(part, nn.Embedding):
        handles += [
            part.register_full_backward_pre_hook(begin("backward")),
            part.register_full_backward_hook(end("backward")),
        ]
    return handles


def operators(model: Any, batch: Batch, *, top: int, trace: Path | None) -> list[dict[str, Any]]:
    """The operators of one step with the most time of their own, most first; optionally the step as a trace file."""
    ours = updater(model)
    ours.update([batch], learning_rate=0.0)
    activities = [ProfilerActivity.CPU]
    if model.embedding.weight.is_cuda:
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as watched:
        ours.update([batch], learning_rate=0.0)
    if trace is not None:
        with atomic_file(trace) as work:
            watched.export_chrome_trace(str(work))
    own = [
        (event.key, (event.self_device_time_total or event.self_cpu_time_total) / 1e6, event.count)
        for event in watched.key_averages()
    ]
    own.sort(key=lambda row: -row[1])
    return [{"name": name, "seconds": seconds, "calls": calls} for name, seconds, calls in own[:top]]


def memory(model: Any, batch: Batch) -> dict[str, int]:
    """Bytes by part in a step: what is counted from tensors, the process's peak, and the rest of it as `other`.

    Gradients come as activations go: their memory is the same, and counts once in `other`.
    """
    ours = updater(model)
    activations: dict[int, int] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            activations[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        ours.update([batch], learning_rate=0.0)
    parameters = list(model.parameters())
    state = [value for values in ours.optimizer.state.values() for value in values.values()]
    parts = {
        "weights": _bytes(parameters),
        "gradients": _bytes([p for p in parameters if p.requires_grad]),  # one for each, gone after the step
        "optimizer": _bytes([value for value in state if isinstance(value, Tensor)]),
        "activations": sum(activations.values()),
        "logits": 2 * 4 * min(CHUNK_TOKENS, batch.tokens.numel()) * model.config.vocab,
    }
    peak = _peak_bytes(model.embedding.weight.device)
    twice = min(parts["gradients"], parts["activations"] + parts["logits"])
    return {**parts, "other": peak - sum(parts.values()) + twice, "peak": peak}


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _peak_bytes(device: torch.device) -> int:
    """The most this process held: on an accelerator its tensors, on the CPU everything, interpreter included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 512
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
