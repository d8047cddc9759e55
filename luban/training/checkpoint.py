"""Training state on disk: `<out>/checkpoints/step-00001234/`, whole or absent, with pointers to `latest` and `best`.

Each is also a model folder in Hugging Face layout, or an adapter's. A killed run continues bit for bit: weights,
optimizer, random generators and the data cursor are all here, and a checkpoint is written under a hidden name
and renamed, so that a kill in the middle leaves the one before.

Several processes write one checkpoint together, each its part (`parallel/states.py`), on a disk that all of them
see; the model folder is whole there too. Any layout reads what any other wrote.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from luban import device, folder
from luban.errors import CheckpointError
from luban.models import hf
from luban.tokenizers.files import FileTokenizer
from luban.training.parallel.whole import gathered, optimizer_order
from luban.training.parallel.world import ALONE, World

if TYPE_CHECKING:
    from luban.training.learner import Learner

LATEST = "latest"
BEST = "best"
STATE = "state.json"
PARTS = "parts"
"""What several processes write, in place of `optimizer.pt`."""


def save(
    out: Path,
    step: int,
    *,
    model: Any,
    optimizer: torch.optim.Optimizer,
    tokenizer: FileTokenizer,
    learner: Learner,
    state: dict[str, Any],
    limit: int,
    best: int | None = None,
    world: World = ALONE,
) -> Path:
    """Write the checkpoint of `step`; keep the newest `limit` and that of step `best`.

    `state` is JSON (the data cursor, ...), the same on all processes of `world`, which call this together.
    """
    target = at(out, step)
    # Saved twice where a run was stopped: replacing it could lose it.
    if not world.most((target / STATE).is_file()):
        _write(target, step, model, optimizer, tokenizer, learner, state, world)
    if world.main:
        folder.write_text(target.parent / LATEST, target.name)
        if best is not None:
            folder.write_text(target.parent / BEST, at(out, best).name)
        for old in _all(out)[:-limit]:
            if best is None or old != at(out, best):
                shutil.rmtree(old)
    world.wait()
    return target


def at(out: Path, step: int) -> Path:
    """The folder of the checkpoint of `step`."""
    return out / "checkpoints" / f"step-{step:08d}"


def _write(
    target: Path,
    step: int,
    model: Any,
    optimizer: torch.optim.Optimizer,
    tokenizer: FileTokenizer,
    learner: Learner,
    state: dict[str, Any],
    world: World,
) -> None:
    with filled_by_all(target, world) as work:
        if world.main:
            folder.require_space(target, _bytes(model, optimizer))
        about = write_learnt(work, model, optimizer, tokenizer, learner, world)
        torch.save(device.random_state(), work / _random_file(world.rank))
        world.wait()
        if world.main:
            files = {item.name: folder.fingerprint(item) for item in sorted(work.iterdir())}
            about |= {"layout": _layout(world), "step": step, "files": files}
            folder.write_json(work / STATE, {**state, **about})


def write_learnt(
    work: Path,
    model: Any,
    optimizer: torch.optim.Optimizer,
    tokenizer: FileTokenizer,
    learner: Learner,
    world: World,
) -> dict[str, Any]:
    """Fill the folder `work` with a model folder and the optimizer's state; returns what to tell `read_learnt`."""
    whole = gathered(model, world)
    if world.main:
        learner.write(work, whole, tokenizer)
    return _write_optimizer(work, model, optimizer, world, divided=learner.divides)


@contextmanager
def filled_by_all(target: Path, world: World) -> Iterator[Path]:
    """`folder.atomic_folder` for all processes: the main one makes it, and renames it when all are done."""
    if not world.main:
        yield Path(world.heard(""))
        world.wait()
        return
    for left in target.parent.glob(".step-*"):  # of a run that was killed while it saved
        shutil.rmtree(left)
    with folder.atomic_folder(target) as work:
        world.heard(str(work))
        yield work
        world.wait()


def _write_optimizer(
    work: Path, model: Any, optimizer: torch.optim.Optimizer, world: World, *, divided: bool
) -> dict[str, Any]:
    """Write the optimizer's state, in parts if it is `divided`; returns what `state.json` is to say of it."""
    if world.size > 1 and divided:
        from luban.training.parallel import states

        states.write(work / PARTS, model, optimizer)
        return {}
    if not world.main:
        return {}
    torch.save(optimizer.state_dict(), work / "optimizer.pt")
    return {"parameters": optimizer_order(model, optimizer)}


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
    learner: Learner,
    restore: Callable[[dict[str, Any]], None],
    world: World = ALONE,
) -> int:
    """Put the checkpoint's state into the given objects and generators; returns its step.

    `restore` takes the JSON `state` given to `save`. Raises CheckpointError if a file is missing or altered.
    """
    state = folder.read_json(checkpoint / STATE)
    if world.main:
        _check_files(checkpoint, state["files"])
    world.wait()
    restore(state)
    read_learnt(checkpoint, state, model=model, optimizer=optimizer, learner=learner, world=world)
    _restore_random(checkpoint, state.get("layout"), world)
    return int(state["step"])


def read_learnt(
    checkpoint: Path,
    about: dict[str, Any],
    *,
    model: Any,
    optimizer: torch.optim.Optimizer,
    learner: Learner,
    world: World,
) -> None:
    """Put what `write_learnt` wrote, in whatever layout, into `model` and `optimizer` as they are laid out now."""
    if not (checkpoint / PARTS).is_dir() and (world.size == 1 or not learner.divides):
        learner.read(checkpoint, model)
        optimizer.load_state_dict(_read(checkpoint / "optimizer.pt"))
    else:
        _deal_out(checkpoint, about, model, optimizer, world)


def _deal_out(
    checkpoint: Path, state: dict[str, Any], model: Any, optimizer: torch.optim.Optimizer, world: World
) -> None:
    """Put weights and optimizer state into the layout of now, from parts or from a one-process checkpoint."""
    from luban.training.parallel import states

    if (checkpoint / PARTS).is_dir():
        states.read(checkpoint / PARTS, model, optimizer, world)
        return
    moments = _read(checkpoint / "optimizer.pt")
    states.put(states.named(_weights(checkpoint), moments, state["parameters"]), model, optimizer)


def _weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The checkpoint's weights by name, read when they are used."""
    return dict(hf.load(checkpoint).named_parameters())


def _check_files(checkpoint: Path, files: dict[str, str]) -> None:
    for name, expected in files.items():
        path = checkpoint / name
        if not path.exists() or folder.fingerprint(path) != expected:
            raise CheckpointError(
                f"'{name}' is missing or not as it was written",
                where=checkpoint,
                hint=f"delete {checkpoint} and write the name of an older one into {checkpoint.parent / LATEST}",
            )


def _restore_random(checkpoint: Path, layout: dict[str, int] | None, world: World) -> None:
    """Go on with the random numbers of this process; in another layout only the first copy can.

    The other copies keep the generators they have just seeded.
    """
    same = layout is None or layout == _layout(world)
    if same or world.place("dp") == 0:
        device.restore_random_state(_read(checkpoint / _random_file(world.rank if same else 0)))


def _random_file(rank: int) -> str:
    return f"random-{rank}.pt" if rank else "random.pt"


def _layout(world: World) -> dict[str, int]:
    return {"dp": world.dp, "tp": world.tp, "pp": world.pp}


def _read(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def _all(out: Path) -> list[Path]:
    return sorted((out / "checkpoints").glob("step-*"))


def _bytes(model: Any, optimizer: torch.optim.Optimizer) -> int:
    """What weights and optimizer state take on disk."""
    moments = [value for state in optimizer.state.values() for value in state.values()]
    return sum(tensor.nbytes for tensor in [*model.parameters(), *moments] if torch.is_tensor(tensor))
