"""Models that are not pinned: of the Hugging Face hub, or already on this disk."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from luban.errors import ConfigError, DataError, MachineError
from luban.folder import read_json, stage_folder
from luban.gguf import read

MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt", "LICENSE*")
"""What of a folder or a repository is brought here: weights, settings, tokenizer, licence."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where an unpinned model came from, for `run.json`."""

    origin: str


def fetch_repository(name: str, out: Path) -> Path:
    """The model `org/name` of the Hugging Face hub, checked to be one that Luban can read.

    Raises MachineError if the hub cannot be reached or has no such model, ModelError if it is of no known
    family, AlreadyDone.
    """
    if name.count("/") != 1:
        raise ConfigError(f"'{name}' is not of the form org/name", where="luban fetch", hint="hf:org/name")
    with stage_folder(out, stage="fetch", config=Origin(origin=f"hf:{name}")) as (work, metrics):
        _snapshot(name, work)
        metrics.update(_checked(work), origin=f"https://huggingface.co/{name}")
    return out


def convert_file(file: Path, out: Path) -> Path:
    """A `.gguf` file as a model folder; raises as `read.convert` does, and AlreadyDone."""
    with stage_folder(out, stage="fetch", config=Origin(origin=file.name), inputs=[file]) as (work, metrics):
        metrics.update(read.convert(file, work))
        metrics.update(_checked(work), origin=str(file))
    return out


def copy_folder(folder: Path, out: Path) -> Path:
    """A copy of a model folder, checked to be one that Luban can read; raises ModelError, AlreadyDone."""
    if out.resolve() == folder.resolve():
        raise ConfigError("the folder is already there; it can be used as it is", where=folder)
    _checked(folder)
    inputs = [file for file in _model_files(folder) if file.name != "run.json"]
    with stage_folder(out, stage="fetch", config=Origin(origin=folder.name), inputs=inputs) as (
        work,
        metrics,
    ):
        for file in inputs:
            shutil.copy2(file, work / file.name)
        metrics.update(_checked(work), origin=str(folder))
    return out


def _snapshot(name: str, work: Path) -> None:
    """Download the model's files into `work`."""
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError:
        raise MachineError(
            "the Hugging Face hub takes the package huggingface_hub", hint="pip install 'luban[hub]'"
        ) from None
    fresh = (
        work / "download"
    )  # a folder that exists would be taken for the answer where the hub is out of reach
    refusals = (errors.HfHubHTTPError, errors.HFValidationError, errors.LocalEntryNotFoundError)
    try:
        snapshot_download(name, local_dir=fresh, allow_patterns=list(MODEL_FILES))
    except (*refusals, ConnectionError, TimeoutError) as error:
        cause = " ".join(str(error.__cause__ or error).split())
        raise MachineError(
            f"could not download: {type(error).__name__}: {cause[:300]}",
            where=f"hf:{name}",
            hint="check the name and the network; with the files at hand: luban fetch PATH",
        ) from None
    for file in _model_files(fresh):
        file.replace(work / file.name)
    shutil.rmtree(fresh)  # with the hub's own notes


def _checked(folder: Path) -> dict[str, Any]:
    """What a model folder is; raises ModelError if Luban cannot read it, DataError without weights."""
    from luban.models.hf import load_config

    config = load_config(folder)
    if not any(folder.glob("*.safetensors")):
        raise DataError("the model has no .safetensors weights", where=folder)
    return {"family": config.model_type, "context": config.context, "license": _license(folder)}


def _license(folder: Path) -> str:
    """What the folder says of its licence; a hub model says it in its card, which is for people to read."""
    stated = read_json(folder / "config.json").get("license")
    files = sorted(file.name for file in folder.glob("LICENSE*"))
    return stated or (f"see {files[0]}" if files else "not stated in the files: see the model's card")


def _model_files(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.iterdir()
        if file.is_file() and any(fnmatch(file.name, pattern) for pattern in MODEL_FILES)
    )
