"""Adapters on disk as `peft` lays them out: `adapter_config.json` and `adapter_model.safetensors`.

What is written here `peft` reads, and the other way round. Layers have Hugging Face's names there: who calls says
which (`luban.models.names.module_names`). Layers that a file of the family fuses have one adapter there (`fused`).
The head for a task, which is new with the adapter, is in its file too (`heads`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from luban.config import build
from luban.errors import DataError, ModelError, nearest
from luban.folder import atomic_file, read_json, write_json
from luban.peft import METHODS, heads
from luban.peft.adapter import Adapter, Method, base_hash
from luban.peft.fused import own_ranks, split, stacked
from luban.peft.lora import LoraConfig
from luban.peft.targets import by_ends

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
BASE_HASH = "luban_base_hash"
"""Our entry beside `peft`'s: what the weights were that the adapter was trained on."""
METHOD = "luban_method"
"""Our entry: the method by our name, where its adapters are those of another and the base is not."""
NEUTRAL = (None, False, "none", "", 0, [], {})
"""What an entry says that changes nothing."""
HARMLESS = {"init_lora_weights": (True, "gaussian", "orthogonal", "eva")}
"""What else an entry may say: other ways to draw A and B (PiSSA, OLoRA, LoftQ) change the base as well."""
IGNORED = {"peft_type", "base_model_name_or_path", "task_type", "target_modules", "inference_mode", "peft_version",
           "revision", "auto_mapping", "fan_in_fan_out", "megatron_core", "qalora_group_size",
           "layers_to_transform", "layers_pattern", "exclude_modules", BASE_HASH, METHOD, heads.ENTRY}  # fmt: skip
"""Entries that are about how `peft` made the adapter: which layers have one, the tensors tell."""


def save(adapter: Adapter, folder: Path, *, names: Mapping[str, str], base: str = "") -> None:
    """Write the adapter; `names` has the files' name of each layer, `base` says where the model came from.

    Raises ConfigError where `peft` cannot say what this adapter does. A method that `peft` does not have is written
    under a type that it refuses, with our own names of layers.
    """
    tensors, entries = contents(adapter, names=names)
    entries |= {"base_model_name_or_path": base, BASE_HASH: base_hash(adapter.model)}
    with atomic_file(folder / WEIGHTS) as work:
        whole = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
        save_file(whole, work, metadata={"format": "pt"})
    write_json(folder / CONFIG, entries)


def contents(adapter: Adapter, *, names: Mapping[str, str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save` writes: tensors and entries, but for what they say of the base. Raises ConfigError as that does."""
    assert not adapter.unmerged, "unmerge before saving: the base is not what it was"
    names = _names(adapter.method, adapter.model, names)
    layers = {**stacked(adapter, names), **heads.tensors(adapter.model, names)}
    tensors = {
        f"{PREFIX}{place}.{end}" if place else end: tensor
        for place, ends in layers.items()
        for end, tensor in ends.items()
    }
    entries = adapter.entries(names)
    more = {
        "peft_type": _type(adapter.method),
        "task_type": "CAUSAL_LM",
        "target_modules": sorted(
            # `peft` asks that the layers whose inputs IA3 scales are among them, by the same names.
            {
                *by_ends({names[place] for place in adapter.tensors() if place}, names),
                *entries.get("feedforward_modules", ()),
            }
        ),
    }
    return tensors, {**entries, **more, **heads.entries(adapter.model, names)}


def load(model: Any, folder: Path, *, names: Mapping[str, str], name: str = "default") -> Adapter:
    """Apply the adapter in `folder` to `model` under `name`.

    Raises ModelError if it is of another base, or says or holds what cannot be followed.
    """
    entries = _entries(folder)
    method = _method(entries, folder)
    heads.check_place(model, entries, where=folder / CONFIG)
    told = entries.get(BASE_HASH)
    if told and told != base_hash(model):
        what = "the adapter was trained on another model, or on other weights of it"
        raise ModelError(
            what, where=folder, hint=f"its base was {entries.get('base_model_name_or_path') or 'not named'}"
        )
    names = _names(method, model, names)
    written = _written(folder, names)
    heads.fill(model, entries, written, names, folder / CONFIG)
    held = split(written, names, model)
    if issubclass(METHODS[method].config, LoraConfig):
        entries |= own_ranks(entries, written, held, names, folder / CONFIG)
    adapter = METHODS[method].apply(model, _config(METHODS[method], entries, held, folder), name=name)
    adapter.fit(held)
    mine = adapter.tensors()
    for place, ends in mine.items():
        _fill(place, ends, held.get(place, {}), folder)
    return adapter


def with_head(model: Any, folder: Path) -> Any:
    """`model`, with the head for a task if the adapter in `folder` has one; `load` gives it its weights."""
    return heads.with_head(model, _entries(folder), _tensors(folder), where=folder / CONFIG)


def _entries(folder: Path) -> dict[str, Any]:
    try:
        return read_json(folder / CONFIG)
    except DataError as error:
        raise ModelError(error.what, where=error.where, hint="an adapter folder has it") from None


def _type(method: str) -> str:
    """What `adapter_config.json` calls a method."""
    return METHODS[method].peft_type or f"LUBAN_{method.upper()}"


def _names(method: str, model: nn.Module, names: Mapping[str, str]) -> Mapping[str, str]:
    """The files' names of layers: Hugging Face's, but our own for a method that only we read."""
    if METHODS[method].peft_type:
        return names
    return {name: name for name, _ in model.named_modules() if name}


def _method(entries: Mapping[str, Any], folder: Path) -> str:
    if (ours := entries.get(METHOD)) in METHODS:
        return str(ours)
    known = {_type(name): name for name in reversed(METHODS)}  # of one type the first reads it
    told = str(entries.get("peft_type"))
    if told not in known:
        raise ModelError(f"unknown peft_type '{told}'; {nearest(told, known)}", where=folder / CONFIG)
    return known[told]


def _config(
    method: Method, entries: Mapping[str, Any], held: Mapping[str, Mapping[str, Tensor]], folder: Path
) -> Any:
    """The method's config, from the entries and from what the tensors tell."""
    fields = {field.name for field in dataclasses.fields(method.config)} - set(method.ignored)
    for entry, value in entries.items():
        harmless = value in NEUTRAL or value in HARMLESS.get(entry, ())
        if entry not in fields | IGNORED | set(method.ignored) and not harmless:
            raise ModelError(f"entry '{entry}' is {value!r}, which is not supported", where=folder / CONFIG)
    told = {name: entries[name] for name in fields if entries.get(name) is not None}
    if "target_modules" in fields:
        told["target_modules"] = tuple(place for place in held if place)
    return build(method.config, told | method.read(held), where=str(folder / CONFIG))


def _written(folder: Path, names: Mapping[str, str]) -> dict[str, dict[str, Tensor]]:
    """The file's tensors by its name of the layer and the end of theirs."""
    held: dict[str, dict[str, Tensor]] = {}
    for key, tensor in _tensors(folder).items():
        if not key.endswith(".base_layer.weight"):  # a copy of the model's own embedding
            place, end = _place(key.removeprefix(PREFIX), names, folder)
            held.setdefault(place, {})[end] = tensor
    return held


def _tensors(folder: Path) -> dict[str, Tensor]:
    try:
        return load_file(folder / WEIGHTS)
    except (SafetensorError, FileNotFoundError) as error:
        raise ModelError(f"no readable weights: {error}", where=folder / WEIGHTS) from None


def _place(key: str, names: Mapping[str, str], folder: Path) -> tuple[str, str]:
    """The layer, by the files' name, and the rest of a tensor's name."""
    known, parts = set(names.values()), key.split(".")
    for length in range(len(parts) - 1, 0, -1):
        if ".".join(parts[:length]) in known:
            return ".".join(parts[:length]), ".".join(parts[length:])
    if len(parts) == 1:
        return "", key
    raise ModelError(f"'{key}' is a part of no layer of this model", where=folder / WEIGHTS)


def _fill(place: str, ends: Mapping[str, Tensor], held: Mapping[str, Tensor], folder: Path) -> None:
    """Copy what the file holds for a layer into its part."""
    if set(held) != set(ends):
        what = f"the adapter of '{place}' holds {sorted(held)}, expected {sorted(ends)}"
        raise ModelError(what, where=folder / WEIGHTS)
    for end, mine in ends.items():
        if held[end].shape != mine.shape:
            what = f"'{end}' of '{place}' has shape {list(held[end].shape)}, expected {list(mine.shape)}"
            raise ModelError(what, where=folder / WEIGHTS)
        with torch.no_grad():
            mine.copy_(held[end])
