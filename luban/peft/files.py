"""Adapters on disk as `peft` lays them out: `adapter_config.json` and `adapter_model.safetensors`.

What is written here `peft` reads, and the other way round. Layers have Hugging Face's names there: who calls says
which (`luban.models.names.module_names`). Several layers that a file of the family fuses (GPT-2's q, k and v) have
one adapter there; theirs are stacked, exactly, on the way out and shared on the way in.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from luban.config import build
from luban.errors import ConfigError, DataError, ModelError, nearest
from luban.folder import atomic_file, read_json, write_json
from luban.nn.surgery import own_parameters
from luban.peft import METHODS
from luban.peft.adapter import Adapter

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
BASE_HASH = "luban_base_hash"
"""Our entry beside `peft`'s: what the weights were that the adapter was trained on."""
NEUTRAL = (None, False, "none", "", 0, [], {})
"""What an entry says that changes nothing."""
IGNORED = {"peft_type", "base_model_name_or_path", "task_type", "target_modules", "inference_mode", "peft_version",
           "revision", "auto_mapping", "init_lora_weights", "fan_in_fan_out", "megatron_core", "qalora_group_size",
           "layers_to_transform", "layers_pattern", "exclude_modules", BASE_HASH}  # fmt: skip
"""Entries that are about how `peft` made the adapter: which layers have one, the tensors tell."""


def save(adapter: Adapter, folder: Path, *, names: Mapping[str, str], base: str = "") -> None:
    """Write the adapter; `names` has the files' name of each layer, `base` says where the model came from.

    Raises ConfigError for a method that `peft` does not have, or where it cannot say what this adapter does.
    """
    method = METHODS[adapter.method]
    if method.peft_type is None:
        raise ConfigError(f"peft's files cannot hold '{adapter.method}'", hint="merge it into the model")
    layers = adapter.tensors()
    tensors = {
        f"{PREFIX}{place}.{end}" if place else end: tensor
        for place, ends in _fused(layers, names).items()
        for end, tensor in ends.items()
    }
    entries = dataclasses.asdict(adapter.config)
    more: dict[str, Any] = {
        "peft_type": method.peft_type,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "target_modules": sorted({names[place].rpartition(".")[2] for place in layers if place}),
        BASE_HASH: base_hash(adapter.model),
    }
    with atomic_file(folder / WEIGHTS) as work:
        whole = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
        save_file(whole, work, metadata={"format": "pt"})
    write_json(folder / CONFIG, {**entries, **more})


def load(model: Any, folder: Path, *, names: Mapping[str, str], name: str = "default") -> Adapter:
    """Apply the adapter in `folder` to `model` under `name`.

    Raises ModelError if it is of another base, or says or holds what cannot be followed.
    """
    entries = _entries(folder)
    method = _method(entries, folder)
    told = entries.get(BASE_HASH)
    if told and told != base_hash(model):
        what = "the adapter was trained on another model, or on other weights of it"
        raise ModelError(
            what, where=folder, hint=f"its base was {entries.get('base_model_name_or_path') or 'not named'}"
        )
    held = _grouped(folder, names)
    config = _config(METHODS[method].config, entries, tuple(place for place in held if place), folder)
    adapter = METHODS[method].apply(model, config, name=name)
    mine = adapter.tensors()
    for place, ends in mine.items():
        _fill(place, ends, held.get(place, {}), folder)
    return adapter


def base_hash(model: nn.Module) -> str:
    """A name for the model's own weights: of every one its name, shape and a few hundred values."""
    digest = hashlib.sha256()
    for name, weight in sorted(own_parameters(model).items()):
        flat = weight.detach().flatten()
        few = flat[:: max(1, len(flat) // 256)].float().cpu()
        digest.update(f"{name} {tuple(weight.shape)}".encode() + few.numpy().tobytes())
    return digest.hexdigest()[:32]


def _fused(
    layers: Mapping[str, Mapping[str, Tensor]], names: Mapping[str, str]
) -> dict[str, Mapping[str, Tensor]]:
    """The tensors by the files' names of layers, those of fused layers made one."""
    members: dict[str, list[str]] = {}
    for place in layers:
        members.setdefault(names[place] if place else "", []).append(place)
    return {theirs: layers[places[0]] if len(_siblings(theirs, names)) <= 1 else _stacked(theirs, layers, names)
            for theirs, places in members.items()}  # fmt: skip


def _siblings(theirs: str, names: Mapping[str, str]) -> list[str]:
    """Our layers of one of the files' modules, in its order."""
    return [ours for ours, name in names.items() if name == theirs]


def _stacked(
    theirs: str, layers: Mapping[str, Mapping[str, Tensor]], names: Mapping[str, str]
) -> dict[str, Tensor]:
    """Adapters of layers over one input as one of the rank of all: A's on each other, B's along the diagonal."""
    parts = [layers.get(place) for place in _siblings(theirs, names)]
    if any(part is None or set(part) != {"lora_A.weight", "lora_B.weight"} for part in parts):
        what = f"peft's files have one adapter for '{theirs}': all of its layers need a plain LoRA, or none"
        raise ConfigError(what, where="target_modules")
    a = [part["lora_A.weight"] for part in parts if part]
    b = [part["lora_B.weight"] for part in parts if part]
    return {"lora_A.weight": torch.cat(a), "lora_B.weight": torch.block_diag(*b)}


def _entries(folder: Path) -> dict[str, Any]:
    try:
        return read_json(folder / CONFIG)
    except DataError as error:
        raise ModelError(error.what, where=error.where, hint="an adapter folder has it") from None


def _method(entries: Mapping[str, Any], folder: Path) -> str:
    known = {method.peft_type: name for name, method in METHODS.items() if method.peft_type}
    told = str(entries.get("peft_type"))
    if told not in known:
        raise ModelError(f"unknown peft_type '{told}'; {nearest(told, known)}", where=folder / CONFIG)
    return known[told]


def _config(cls: type[Any], entries: Mapping[str, Any], places: tuple[str, ...], folder: Path) -> Any:
    fields = {field.name for field in dataclasses.fields(cls)}
    for entry, value in entries.items():
        if entry not in fields | IGNORED and value not in NEUTRAL:
            raise ModelError(f"entry '{entry}' is {value!r}, which is not supported", where=folder / CONFIG)
    told = {name: entries[name] for name in fields if entries.get(name) is not None}
    return build(
        cls,
        told | ({"target_modules": places} if "target_modules" in fields else {}),
        where=str(folder / CONFIG),
    )


def _grouped(folder: Path, names: Mapping[str, str]) -> dict[str, dict[str, Tensor]]:
    """The file's tensors by our layer and the end of the name."""
    try:
        written = load_file(folder / WEIGHTS)
    except (SafetensorError, FileNotFoundError) as error:
        raise ModelError(f"no readable weights: {error}", where=folder / WEIGHTS) from None
    held: dict[str, dict[str, Tensor]] = {}
    for key, tensor in written.items():
        if key.endswith(".base_layer.weight"):
            continue  # a copy of the model's own embedding
        place, end = _place(key.removeprefix(PREFIX), names, folder)
        for ours in _siblings(place, names) if place else [""]:
            held.setdefault(ours, {})[end] = tensor
    return held


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
    """Copy what the file holds for a layer into its part; a fused layer's B is this layer's rows of it."""
    if set(held) != set(ends):
        what = f"the adapter of '{place}' holds {sorted(held)}, expected {sorted(ends)}"
        raise ModelError(what, where=folder / WEIGHTS)
    for end, mine in ends.items():
        if held[end].shape != mine.shape:
            what = f"'{end}' of '{place}' has shape {list(held[end].shape)}, expected {list(mine.shape)}"
            raise ModelError(what, where=folder / WEIGHTS)
        with torch.no_grad():
            mine.copy_(held[end])
