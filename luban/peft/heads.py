"""The head for a task beside an adapter, in the adapter's files: `peft`'s `modules_to_save`.

The head is as new as the adapter and no base has it, so its weights stand in the adapter's file as they are. What it
tells apart is an entry of ours; where `peft` wrote the file, the head's shape tells how many labels there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luban.errors import ModelError
from luban.models import FAMILIES, hf
from luban.models.classifier import Classifier
from luban.models.headed import Headed, problem_of
from luban.nn.linear import Linear
from luban.peft.adapter import head_layers

ENTRY = "luban_head"
"""Our entry: the fields of `HeadConfig` that the head was made with."""
SAVED, TASK = "modules_to_save", "task_type"
TASKS = {"sentence": "SEQ_CLS", "tokens": "TOKEN_CLS", "spans": "QUESTION_ANS"}
SETTINGS = ("labels", "problem", "pooling", "words")
SCORES = ("score.weight", "classifier.weight", "classifier.out_proj.weight")
"""How HF's names of a head's weight end: it has a row for each label."""


def tensors(model: Any, names: Mapping[str, str]) -> dict[str, dict[str, Tensor]]:
    """The head's weights by the files' names of its layers; none for a model without one."""
    return {names[layer]: _weights(model, layer) for layer in head_layers(model)}


def entries(model: Any, names: Mapping[str, str]) -> dict[str, Any]:
    """What `adapter_config.json` says of the head; nothing for a model without one."""
    if not isinstance(model, Headed):
        return {}
    prefix = hf.names_of(model.config).prefix
    saved = {names[layer].removeprefix(prefix).split(".")[0] for layer in head_layers(model)}
    head = {name: getattr(model.config, name) for name in SETTINGS}
    return {TASK: TASKS[model.task], SAVED: sorted(saved), ENTRY: head}


def with_head(model: Any, told: Mapping[str, Any], written: Mapping[str, Tensor], *, where: Path) -> Any:
    """The base `model` with the head that an adapter's entries and tensors tell of, its weights not yet filled in.

    Raises ModelError for a head of a kind that no adapter is trained with here.
    """
    task = told.get(TASK)
    if isinstance(model, Headed) or task not in TASKS.values():
        return model
    if task != TASKS[Classifier.task]:
        what = f"the adapter's head is for '{task}'; here one is for {TASKS[Classifier.task]}"
        raise ModelError(what, where=where)
    if FAMILIES[model.config.model_type].kind == "masked" and model.pooler is None:
        model.pooler = Linear(model.config.dim, model.config.dim)
    settings = dict(told.get(ENTRY) or {"labels": _rows(written, where)})
    labels = settings.pop("labels")
    return Classifier(model, labels, **{"problem": problem_of(labels), **settings})


def check_place(model: Any, told: Mapping[str, Any], *, where: Path) -> None:
    """Raise ModelError for an adapter with a head that `model` has no place for."""
    if ENTRY in told and not isinstance(model, Headed):
        what = "the adapter has a head for a task, and the model has no place for it"
        raise ModelError(what, where=where, hint="open its folder, or train it with peft.merge=true")


def fill(
    model: Any,
    told: dict[str, Any],
    written: dict[str, dict[str, Tensor]],
    names: Mapping[str, str],
    where: Path,
) -> None:
    """Give the model's head its weights of `written`, and take them, with what is said of them, out of both.

    Raises ModelError for a head of other shapes.
    """
    if isinstance(model, Headed):
        told.pop(SAVED, None)
    for layer in head_layers(model):
        held, mine = written.pop(names[layer], {}), _weights(model, layer)
        if not held and layer != "score":
            continue  # `peft` saves an encoder's pooler only where it is told to: the base's own is meant
        if shapes(held) != shapes(mine):
            raise ModelError(f"the head's '{layer}' is {shapes(held)}, expected {shapes(mine)}", where=where)
        with torch.no_grad():
            for end, weight in mine.items():
                weight.copy_(held[end])


def shapes(weights: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """Each tensor's shape."""
    return {end: list(weight.shape) for end, weight in sorted(weights.items())}


def _weights(model: Any, layer: str) -> dict[str, Tensor]:
    return dict(model.get_submodule(layer).named_parameters(recurse=False))


def _rows(written: Mapping[str, Tensor], where: Path) -> list[str]:
    """Labels by number, one for each row of the head's weight."""
    rows = next((len(tensor) for name, tensor in written.items() if name.endswith(SCORES)), 0)
    if not rows:
        raise ModelError("the adapter says it has a head, and its file holds none", where=where)
    return [f"LABEL_{number}" for number in range(rows)]
