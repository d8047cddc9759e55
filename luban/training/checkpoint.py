"""Training state on disk: `<out>/checkpoints/step-00001234/`, whole or absent, and a `latest` pointer.

Each checkpoint is also a model folder in Hugging Face layout. A killed run continues bit for bit: weights,
optimizer, random generators and the data cursor are all here, and a checkpoint is written under a hidden name
and renamed, so that a kill in the middle leaves the one before.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from luban import device, folder
from luban.errors import CheckpointError
from luban.models import hf
from luban.tokenizers.files import FileTokenizer

LATEST = "latest"
STATE = "state.json"


def save(
    out: Path,
    step: int,
    *,
    model: Any,
    optimizer: torch.optim.Optimizer,
    tokenizer: FileTokenizer,
    state: dict[str, Any],
    limit: int,
) -> Path:
    """Write the checkpoint of `step` and keep the newest `limit`; `state` is JSON (the data cursor, ...)."""
    target = out / "checkpoints" / f"step-{step:08d}"
    if not (target / STATE).is_file():  # saved twice where a run was stopped: replacing it could lose it
        _write(target, step, model, optimizer, tokenizer, state)
    folder.write_text(target.parent / LATEST, target.name)
    for old in _all(out)[:-limit]:
        shutil.rmtree(old)
    return target


def _write(
    target: Path,
    step: int,
    model: Any,
    optimizer: torch.optim.Optimizer,
    tokenizer: FileTokenizer,
    state: dict[str, Any],
) -> None:
    folder.require_space(target, _bytes(model, optimizer))
    with folder.atomic_folder(target) as work:
        write_model_folder(work, model, tokenizer)
        torch.save(optimizer.state_dict(), work / "optimizer.pt")
        torch.save(device.random_state(), work / "random.pt")
        files = {item.name: folder.fingerprint(item) for item in sorted(work.iterdir())}
        folder.write_json(work / STATE, {**state, "step": step, "files": files})


def write_model_folder(target: Path, model: Any, tokenizer: FileTokenizer) -> None:
    """Fill `target` with the model and its tokenizer in Hugging Face layout, ready for chat, eval and serve."""
    hf.save(model, target)
    tokenizer.save(target)
    ids = {"bos": tokenizer.bos_id, "pad": tokenizer.pad_id, "eos": list(tokenizer.stop_ids)}
    ids["decoder_start"] = getattr(model.config, "decoder_start_id", None)  # only encoder-decoders have it
    generation = {f"{name}_token_id": value for name, value in ids.items() if value is not None}
    folder.write_json(target / "generation_config.json", generation)


def latest(out: Path) -> Path | None:
    """The newest checkpoint of the run in `out`, or None if there is none yet."""
    pointer = out / "checkpoints" / LATEST
    if not pointer.is_file():
        return None
    target = pointer.parent / pointer.read_text(encoding="utf-8").strip()
    if not target.is_dir():
        raise CheckpointError(f"'{LATEST}' names a missing folder '{target.name}'", where=pointer)
    return target


def load(
    checkpoint: Path,
    *,
    model: Any,
    optimizer: torch.optim.Optimizer,
    restore: Callable[[dict[str, Any]], None],
) -> int:
    """Put the checkpoint's state into the given objects and generators; returns its step.

    `restore` takes the JSON `state` given to `save`. Raises CheckpointError if a file is missing or altered.
    """
    state = folder.read_json(checkpoint / STATE)
    for name, expected in state["files"].items():
        path = checkpoint / name
        if not path.is_file() or folder.fingerprint(path) != expected:
            raise CheckpointError(
                f"'{name}' is missing or not as it was written",
                where=checkpoint,
                hint=f"delete {checkpoint} and write the name of an older one into {checkpoint.parent / LATEST}",
            )
    model.load_state_dict(hf.load(checkpoint).state_dict())
    optimizer.load_state_dict(torch.load(checkpoint / "optimizer.pt", weights_only=True))
    restore(state)
    device.restore_random_state(torch.load(checkpoint / "random.pt", weights_only=True))
    return int(state["step"])


def _all(out: Path) -> list[Path]:
    return sorted((out / "checkpoints").glob("step-*"))


def _bytes(model: Any, optimizer: torch.optim.Optimizer) -> int:
    """What weights and optimizer state take on disk."""
    moments = [value for state in optimizer.state.values() for value in state.values()]
    return sum(tensor.nbytes for tensor in [*model.parameters(), *moments] if torch.is_tensor(tensor))
