"""The setting `peft` of a stage: a method applied to its model, and what the training loop does about it.

    peft.method=lora peft.r=16 peft.target_modules=all-linear peft.merge=true

A run that tunes fewer weights writes an adapter's folder in `peft`'s layout where others write a model.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from luban.config import build
from luban.data.batch import Batch
from luban.errors import CheckpointError, ConfigError, nearest
from luban.nn.quantize import Nf4Linear
from luban.nn.surgery import own_parameters
from luban.peft import METHODS, files
from luban.peft.adapter import Adapter
from luban.peft.opening import layer_names
from luban.peft.select import Selection
from luban.peft.targets import own_patterns
from luban.tokenizers.files import FileTokenizer
from luban.training.checkpoint import write_model_folder
from luban.training.config import ParallelConfig
from luban.training.step import Gradients, Measured, Objective, Step, Sums

TRAINED = "trained.safetensors"
"""The weights as training has them, which `peft`'s files do not always hold: an exact resume reads these."""
FIRST_BATCHES = 64
"""How much of the data a method may look at before step 1."""
OURS = ("method", "merge")
"""Settings that are no method's."""


class Adapted:
    """See `training.learner.Learner`: an adapter's weights, the model's own at rest."""

    divides = False

    def __init__(self, adapter: Adapter, *, base: Path, merges: bool) -> None:
        self.adapter, self.base, self.merges = adapter, base, merges or adapter.changes_base

    def objective(self, objective: Objective) -> Objective:
        """`objective` with the gradient of the method's own penalty; the loss that is logged stays the task's."""

        def penalised(model: Any, batch: Batch) -> Step:
            step = objective(model, batch)
            penalty = self.adapter.loss() if torch.is_grad_enabled() else None
            if penalty is None:
                return step
            penalty = penalty * step.targets
            return Step(step.loss + (penalty - penalty.detach()), step.targets)

        return penalised

    def gradients(self, gradients: Gradients) -> Gradients:
        """See `Learner.gradients`."""
        return Reshaped(gradients, self.adapter)

    def begin(self, batches: Iterable[Batch], objective: Objective) -> None:
        """See `Learner.begin`."""
        self.adapter.before_training(itertools.islice(batches, FIRST_BATCHES), objective)

    def rate_factor(self, step: int, steps: int) -> float:
        """See `Learner.rate_factor`."""
        return self.adapter.rate_factor(step, steps)

    @torch.no_grad()
    def after_step(self, step: int, steps: int, optimizer: torch.optim.Optimizer) -> None:
        """See `Learner.after_step`."""
        self.adapter.after_step(step, steps, optimizer)

    def write(self, work: Path, model: Any, tokenizer: FileTokenizer) -> None:  # noqa: ARG002 - see `read`
        """See `Learner.write`; only what is trained, which is all a method has changed.

        Beside it the adapter's folder, to look at, but of a run that merges: its adapter need not fit `peft`'s files.
        """
        if not self.merges:
            self._write_adapter(work, tokenizer)
        save_file({name: value.detach().contiguous() for name, value in self._kept().items()}, work / TRAINED)

    def read(self, checkpoint: Path, model: Any) -> None:  # noqa: ARG002 - the adapter has the model
        """See `Learner.read`."""
        held, mine = load_file(checkpoint / TRAINED), self._kept()
        if held.keys() != mine.keys():
            what = f"it holds other weights than {self.adapter.method} trains: {sorted(held.keys() ^ mine.keys())[:3]}"
            raise CheckpointError(what, where=checkpoint)
        with torch.no_grad():
            for name, value in mine.items():
                value.copy_(held[name])

    def finish(self, work: Path, model: Any, tokenizer: FileTokenizer) -> None:
        """See `Learner.finish`: the adapter, or the base with the adapter in its weights."""
        if not self.merges:
            self._write_adapter(work, tokenizer)
            return
        self.adapter.merge(for_good=True)
        write_model_folder(work, model, tokenizer)

    def state(self) -> dict[str, Any]:
        """See `Learner.state`."""
        return self.adapter.state()

    def restore(self, state: dict[str, Any]) -> None:
        """See `Learner.restore`."""
        self.adapter.restore(state)

    def counts(self) -> dict[str, int]:
        """How many weights are trained, and how many the model has without the adapter."""
        trained = sum(value.numel() for value in self.adapter.trained().values())
        own = own_parameters(self.adapter.model).values()
        whole = sum(value.numel() for value in own if value.is_floating_point())
        packed = (layer for layer in self.adapter.model.modules() if isinstance(layer, Nf4Linear))
        whole += sum(layer.in_features * layer.out_features for layer in packed)
        return {"trained_parameters": trained, "parameters": whole}

    def file_bytes(self) -> dict[str, int]:
        """Bytes of weights in `final/`, and of those and the optimizer's moments in a checkpoint, in float32."""
        names, counts = layer_names(self.adapter.model), self.counts()
        held = {} if self.merges else files.contents(self.adapter, names=names)[0]
        beside = sum(tensor.nbytes for tensor in held.values())
        kept = sum(value.nbytes for value in self._kept().values())
        return {
            "final_bytes": 4 * counts["parameters"] if self.merges else beside,
            "checkpoint_bytes": beside + kept + 8 * counts["trained_parameters"],
        }

    def told(self) -> str:
        """`counts` for people."""
        counts = self.counts()
        trained, whole = counts["trained_parameters"], counts["parameters"]
        return f"{self.adapter.method} trains {trained:,} weights; the model has {whole:,}"

    def _write_adapter(self, work: Path, tokenizer: FileTokenizer) -> None:
        files.save(self.adapter, work, names=layer_names(self.adapter.model), base=str(self.base.resolve()))
        tokenizer.save(work)

    def _kept(self) -> dict[str, Tensor]:
        own = own_parameters(self.adapter.model) if self.adapter.changes_base else {}
        return {**own, **self.adapter.trained()}


class Reshaped:
    """See `Gradients`: another's, changed by the method before they are clipped."""

    def __init__(self, inner: Gradients, adapter: Adapter) -> None:
        self.inner, self.adapter = inner, adapter

    def sum(self, batches: Sequence[Batch], *, scale: float = 1.0) -> Sums:
        """See `Gradients.sum`."""
        sums = self.inner.sum(batches, scale=scale)
        with torch.no_grad():
            self.adapter.after_backward()
        return sums

    def norm(self) -> float:
        """See `Gradients.norm`."""
        return self.inner.norm()

    def figures(self) -> dict[str, float]:
        """See `Measured.figures`."""
        return self.inner.figures() if isinstance(self.inner, Measured) else {}


def adapted(
    model: Any, settings: Mapping[str, Any], *, base: Path, parallel: ParallelConfig | None = None
) -> Adapted | None:
    """The method of the setting `peft`, applied to `model`, which was opened from `base`; None for an empty setting.

    Raises ConfigError that names the setting, before anything is written, for an unknown method or one that this
    model, its file or these processes cannot take.
    """
    if not settings:
        return None
    method, config = configured(settings, layer_names(model))
    _check_layout(parallel or ParallelConfig(), method)
    learner = Adapted(METHODS[method].apply(model, config), base=base, merges=bool(settings.get("merge")))
    if not learner.merges:
        files.contents(learner.adapter, names=layer_names(model))  # what no file can say is to be known now
    elif not isinstance(learner.adapter, Selection):
        learner.adapter.mergeable()
    return learner


def planned(model: Any, settings: Mapping[str, Any]) -> Adapted:
    """`adapted` for `model` as a plan needs it: it may be without memory, and came from no folder."""
    learner = adapted(model, settings, base=Path())
    assert learner is not None, "who plans has settings"
    return learner


def configured(settings: Mapping[str, Any], names: Mapping[str, str]) -> tuple[str, Any]:
    """The method that `settings` name and its config; `names` has HF's names of layers, which are understood too."""
    method = str(settings.get("method", ""))
    if method not in METHODS:
        what = f"unknown method '{method}'" if method else f"no method is given with {sorted(settings)}"
        raise ConfigError(f"{what}; {nearest(method, METHODS)}", where="setting 'peft.method'")
    kind = METHODS[method].config
    lists = {field.name for field in dataclasses.fields(kind) if str(field.type).startswith("tuple")}
    told = {
        name: tuple(value.split(",")) if name in lists and isinstance(value, str) else value
        for name, value in settings.items()
        if name not in OURS
    }
    if not isinstance(merge := settings.get("merge", False), bool):
        raise ConfigError(f"'merge' is true or false, not {merge!r}", where="setting 'peft.merge'")
    config = build(kind, told, where=f"setting 'peft' ({method})")
    if hasattr(config, "target_modules"):
        patterns = own_patterns(config.target_modules, names)
        config = dataclasses.replace(config, target_modules=patterns)
    return method, config


def _check_layout(parallel: ParallelConfig, method: str) -> None:
    """Raise ConfigError where processes would share out what a method changes."""
    for name in ("tp", "pp"):
        if getattr(parallel, name) > 1:
            what = f"{method} works on copies of a model, not on one that is cut up"
            raise ConfigError(what, where=f"setting 'parallel.{name}'", hint="parallel.dp")
    if parallel.zero:
        what = f"{method} trains little enough that its state is not shared out"
        raise ConfigError(what, where="setting 'parallel.zero'", hint="parallel.zero=0")
