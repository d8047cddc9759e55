"""Model folders as Hugging Face lays them out: read, written, and built fresh.

`config.json` says the family (`luban.models.FAMILIES`); `model.safetensors`, or shards with an index, holds the
weights under HF's names. What is written here, transformers, vLLM and llama.cpp's converter read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from luban.device import dtype_named
from luban.errors import DataError, ModelError, nearest
from luban.folder import atomic_file, read_json, require_space, write_json
from luban.models import FAMILIES, Family, headed, quantised
from luban.models.base import ModelConfig
from luban.models.headed import HeadConfig
from luban.models.heads import HEADS
from luban.models.names import Names, Stored, plan
from luban.models.quantised import Scheme
from luban.nn import surgery
from luban.nn.quantize import is_quantised

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9
EMBEDDINGS = ("embedding.weight", "backbone.embedding.weight")
"""What a tied head shares: of a model itself, or of one that carries a task's head."""


def load_config(folder: str | Path) -> Any:
    """The family's config in `folder`, or a `HeadConfig` where the model carries a task's head.

    Raises ModelError if it is missing, unreadable or of no known family.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise ModelError(
            f"not a model folder: no {CONFIG}", where=folder, hint="the folder that a stage or fetch wrote"
        )
    entries = _read_json(path)
    if not isinstance(entries, dict):
        raise ModelError("a config is a JSON object", where=path)
    try:
        return _from_entries(entries)
    except ModelError as error:
        raise ModelError(error.what, where=path, hint=error.hint) from None


def load(folder: str | Path, *, dtype: str = "float32", device: str | torch.device = "cpu") -> Any:
    """The model in `folder`, its weights in `dtype` (`auto`: as stored) on `device`.

    Weights that need no conversion stay mapped to the file: pages are read when they are first used, and
    written ones become private. Raises ModelError naming any weight that is missing, unknown or misshaped.
    """
    folder = Path(folder)
    config = load_config(folder)
    config = _of_dtype(config, config.dtype if dtype == "auto" else dtype)
    model = hollow(config)
    _read_weights(model, folder, dtype=dtype_named(config.dtype), device=device)
    return model


def hollow(config: Any) -> Any:
    """A model of `config`, a family's or a head's, whose weights have no memory (they are on `meta`)."""
    with torch.device("meta"):
        if isinstance(config, HeadConfig):
            return HEADS[config.task].of(config)
        return _family(config.model_type).model(config)


def names_of(config: Any) -> Names:
    """HF's names of the weights of a model of `config`, a family's or a head's."""
    return headed.names_of(config) if isinstance(config, HeadConfig) else _family(config.model_type).names


def _read_weights(model: Any, folder: Path, *, dtype: torch.dtype, device: str | torch.device) -> None:
    """Give `model`, which is `hollow`, the weights in `folder`, all of which fit it; raises as `load` does."""
    weights: dict[str, Tensor] = {}
    for name, part in _checked(folder, model, names_of(model.config)):
        kind = dtype if part.is_floating_point() else part.dtype
        weights[name] = part.to(device=device, dtype=kind).contiguous()
    model.load_state_dict(weights, assign=True, strict=not model.config.tied and not is_quantised(model))
    if model.config.tied:
        model.tie()
    if is_quantised(model):
        model.to(device)


def build(
    config: Mapping[str, Any] | ModelConfig, *, dtype: str = "float32", device: str | torch.device = "cpu"
) -> Any:
    """A fresh model with random weights (torch's global seed) from a family's config or HF's entries."""
    known = config if not isinstance(config, Mapping) else _from_entries(config)
    model = _family(known.model_type).model(dataclasses.replace(known, dtype=dtype))  # pyright: ignore[reportArgumentType] - every ModelConfig is a dataclass
    return model.to(device=device, dtype=dtype_named(dtype))


def save(
    model: Any, folder: str | Path, *, shard_bytes: int = SHARD_BYTES, scheme: Scheme | None = None
) -> None:
    """Write `config.json` and the weights, in the dtype they have; shards and an index above `shard_bytes`.

    With a `scheme` matrices are written in fewer bits, as it says; `shard_bytes` then counts them as they were.
    Each file appears whole or not at all, the config last; other files of the folder are left alone.
    """
    folder = Path(folder)
    entries = _of_dtype(model.config, str(next(model.parameters()).dtype).removeprefix("torch.")).to_hf()
    parameters = dict(model.named_parameters())
    if is_quantised(model):
        what = "some of the model's weights are quantised, and a model folder holds floats"
        raise ModelError(what, where=folder, hint="save its adapter, or merge it first")
    stored = plan(names_of(model.config), parameters)
    require_space(folder, sum(parameter.nbytes for parameter in parameters.values()))
    names = names_of(model.config)
    chosen = scheme.chosen(stored, model, names.head) if scheme else []
    shards = _shards(stored, parameters, shard_bytes)
    files = [WEIGHTS] if len(shards) == 1 else [_shard_file(i, len(shards)) for i in range(len(shards))]
    weight_map: dict[str, str] = {}
    total = 0
    for file, members in zip(files, shards, strict=True):
        tensors: dict[str, Tensor] = {}
        for name in members:
            tensors |= _written(
                name, stored[name], parameters, scheme if name in chosen else None, names.head
            )
        with atomic_file(folder / file) as work:
            save_file(tensors, work, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
    if len(shards) > 1:
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    _remove_stale(folder, files)
    if scheme:
        entries |= scheme.to_entries(chosen, stored, model)
    write_json(folder / CONFIG, entries)


def _written(
    name: str, entry: Stored, parameters: Mapping[str, Tensor], scheme: Scheme | None, head: str
) -> dict[str, Tensor]:
    """What a file holds of the weight `name`: itself, or the parts that `scheme` makes of it."""
    tensor = entry.join(parameters)
    if scheme is None:
        return {name: tensor}
    return scheme.encode(name, tensor.t() if entry.transposed else tensor, head=name == head)


def _family(model_type: Any) -> Family:
    if model_type not in FAMILIES:
        advice = nearest(str(model_type), FAMILIES)
        raise ModelError(f"unknown model_type {model_type!r}; {advice}", where=CONFIG)
    return FAMILIES[model_type]


def _of_dtype(config: Any, dtype: str) -> Any:
    if isinstance(config, HeadConfig):
        return dataclasses.replace(config, body=_of_dtype(config.body, dtype))
    return dataclasses.replace(config, dtype=dtype)


def _from_entries(entries: Mapping[str, Any]) -> Any:
    if quantised.is_known(entries):
        entries = {name: value for name, value in entries.items() if name != quantised.ENTRY}
    if headed.task_of(entries):
        return HeadConfig.from_hf(entries)
    return _family(entries.get("model_type")).config.from_hf(entries)


def _read_json(path: Path) -> Any:
    try:
        return read_json(path)
    except DataError as error:
        raise ModelError(error.what, where=error.where) from None


def _checked(folder: Path, model: Any, names: Names) -> Iterator[tuple[str, Tensor]]:
    """Each of the model's parameters with its value from the files, after all tensors were found fitting."""
    parameters = dict(model.named_parameters())
    stored = plan(names, parameters)
    found: dict[str, Tensor] = {}
    places: dict[str, Path] = {}
    for path in _weight_files(folder):
        for name, tensor in _read_tensors(path, names, stored, tied=model.config.tied):
            found[name], places[name] = tensor, path
    stored = _put_quantised(found, stored, model, folder)
    for name in (name for name in stored if name in found):
        fits = parameters[stored[name].parameters[0]]
        shape = stored[name].shape(parameters)
        _check(found[name], name, shape, places[name], whole=not fits.is_floating_point())
    missing = [name for name in stored if name not in found]
    if missing:
        raise ModelError(
            f"weight '{missing[0]}' is missing ({len(missing)} of {len(stored)} are)",
            where=folder,
            hint='"tie_word_embeddings": true in config.json if the model has no head of its own'
            if missing == [names.head]
            else None,
        )
    _check_tied_head(found, stored, names.head, folder)
    _check_copies(found, stored, names, folder)
    for name, entry in stored.items():
        yield from entry.split(found.pop(name)).items()


def _put_quantised(
    found: dict[str, Tensor], stored: dict[str, Stored], model: Any, folder: Path
) -> dict[str, Stored]:
    """Give the model layers for the weights that the files hold in fewer bits; returns what else is to be read."""
    try:
        taken = dict(quantised.take_layers(found, stored, model))
    except ModelError as error:
        raise ModelError(error.what, where=folder, hint=error.hint) from None
    for layers in taken.values():
        surgery.put(model, layers)
    return {name: entry for name, entry in stored.items() if name not in taken}


def _weight_files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / INDEX
    if not index.is_file():
        others = sorted(path.name for path in folder.glob("*.bin"))
        hint = f"convert {others[0]} to safetensors" if others else None
        raise ModelError(f"no weights: neither {WEIGHTS} nor {INDEX}", where=folder, hint=hint)
    entries = _read_json(index)
    weight_map = entries.get("weight_map") if isinstance(entries, dict) else None
    if not isinstance(weight_map, dict):
        raise ModelError("an index has a 'weight_map'", where=index)
    paths = [folder / file for file in sorted(set(weight_map.values()))]
    for path in paths:
        if not path.is_file():
            raise ModelError(f"shard '{path.name}' is missing", where=index)
    return paths


def _read_tensors(
    path: Path, names: Names, stored: Mapping[str, Stored], *, tied: bool
) -> Iterator[tuple[str, Tensor]]:
    """The file's tensors under HF's full names, mapped, not copied; buffers that nothing reads left out."""
    parts = {part for name in stored if name.endswith(".weight") for part in quantised.parts_of(name)}
    expected = {*stored, *parts, *names.copies, *([names.head] if tied else [])}
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            full = {written: _full_name(written, names, expected, path) for written in file.keys()}  # noqa: SIM118 - not a dict
            yield from ((name, file.get_tensor(written)) for written, name in full.items() if name)
    except SafetensorError as error:
        raise ModelError(f"not readable as safetensors: {error}", where=path, hint="fetch it again") from None


def _full_name(written: str, names: Names, expected: AbstractSet[str], path: Path) -> str | None:
    """The name of a tensor with the prefix it may lack; None for a buffer. Raises ModelError if unknown."""
    for name in (names.today(written), f"{names.prefix}{names.today(written)}"):
        if name in expected:
            return name
    if written.endswith(names.buffers):
        return None
    raise ModelError(
        f"unknown weight '{written}'",
        where=path,
        hint="config.json may be another model's, or name an architecture with fewer parts",
    )


def _check(tensor: Tensor, name: str, shape: list[int], path: Path, *, whole: bool) -> None:
    """Raise ModelError unless the tensor has the shape, and whole numbers just where the model has them."""
    if list(tensor.shape) != shape:
        raise ModelError(
            f"weight '{name}' has shape {list(tensor.shape)}, config.json makes it {shape}", where=path
        )
    if tensor.is_floating_point() == whole:
        raise ModelError(
            f"weight '{name}' is {tensor.dtype}, not whole numbers"
            if whole
            else f"weight '{name}' is {tensor.dtype}: quantised weights are not supported",
            where=path,
        )


def _check_tied_head(
    found: Mapping[str, Tensor], stored: Mapping[str, Stored], head: str, folder: Path
) -> None:
    """A tied model's file may repeat the embedding as head, but not hold another one."""
    if head not in found or head in stored:
        return
    embedding = next(name for name, entry in stored.items() if entry.parameters[0] in EMBEDDINGS)
    if not torch.equal(found[head], found[embedding]):
        raise ModelError(
            f"the config ties the head to the embedding, but '{head}' differs from '{embedding}'",
            where=folder,
            hint='"tie_word_embeddings": false in config.json',
        )


def _check_copies(
    found: Mapping[str, Tensor], stored: Mapping[str, Stored], names: Names, folder: Path
) -> None:
    """A file may hold the embedding under several names, but not different ones."""
    for copy in (name for name in names.copies if name in found):
        embedding = next(name for name, entry in stored.items() if entry.parameters[0] in EMBEDDINGS)
        if not torch.equal(found[copy], found[embedding]):
            raise ModelError(
                f"'{copy}' differs from '{embedding}'; this family has one embedding", where=folder
            )


def _shards(
    stored: Mapping[str, Stored], parameters: Mapping[str, Tensor], shard_bytes: int
) -> list[list[str]]:
    """Names of tensors, in order, in groups of at most `shard_bytes` (a larger tensor is alone)."""
    shards: list[list[str]] = [[]]
    room = shard_bytes
    for name, entry in stored.items():
        size = sum(parameters[member].nbytes for member in entry.parameters)
        if size > room and shards[-1]:
            shards.append([])
            room = shard_bytes
        shards[-1].append(name)
        room -= size
    return shards


def _shard_file(number: int, count: int) -> str:
    return f"model-{number + 1:05d}-of-{count:05d}.safetensors"


def _remove_stale(folder: Path, files: list[str]) -> None:
    """Take away weights of an earlier save that would be read instead of, or beside, `files`."""
    for path in [*folder.glob("model-*-of-*.safetensors"), folder / WEIGHTS]:
        if path.name not in files:
            path.unlink(missing_ok=True)
    if len(files) == 1:
        (folder / INDEX).unlink(missing_ok=True)
