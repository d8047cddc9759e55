"""A model out of a folder, whichever kind: a whole model, or an adapter's folder, which names its base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from luban.errors import ModelError
from luban.folder import read_json
from luban.models import hf
from luban.models.names import module_names
from luban.nn.surgery import own_parameters, parts
from luban.peft import files
from luban.peft.adapter import Mergeable
from luban.peft.prepended import Prompt


def is_adapter(folder: Path) -> bool:
    """Whether `folder` holds an adapter and no model."""
    return (folder / files.CONFIG).is_file() and not (folder / hf.CONFIG).is_file()


def base_of(folder: Path) -> Path:
    """The model folder that an adapter's folder names; raises ModelError if it is not there."""
    told = str(read_json(folder / files.CONFIG).get("base_model_name_or_path") or "")
    for place in (Path(told), folder / told):
        if told and (place / hf.CONFIG).is_file():
            return place
    hint = f"write the base's folder into {files.CONFIG} as base_model_name_or_path"
    raise ModelError(f"the adapter's base '{told}' is not there", where=folder, hint=hint)


def open_model(
    folder: Path, *, dtype: str = "float32", device: str | torch.device = "cpu", merge: bool = False
) -> Any:
    """The model in `folder`; of an adapter's folder its base with the adapter attached, and the head it may have.

    With `merge` an adapter that can be is put into the weights, so that the model is a plain one.
    Raises ModelError for a base that is missing or is not the one the adapter was trained on.
    """
    if not is_adapter(folder):
        return hf.load(folder, dtype=dtype, device=device)
    model = files.with_head(hf.load(base_of(folder), dtype=dtype, device=device), folder)
    model.to(device=device, dtype=next(model.parameters()).dtype)  # the head as its base
    adapter = files.load(model, folder, names=layer_names(model))
    attached = [part for _, part in adapter.parts().values()]
    if merge and attached and all(isinstance(part, Mergeable) for part in attached):
        adapter.merge(for_good=True)
    return model


def layer_names(model: Any) -> dict[str, str]:
    """HF's name of each layer of ours that has a weight, as `peft.files` takes them."""
    return module_names(hf.names_of(model.config), own_parameters(model))


def places_taken(model: Any) -> int:
    """How many places of the model's window a prompt takes that it reads before every text."""
    return sum(part.length for _, _, part in parts(model) if isinstance(part, Prompt))
