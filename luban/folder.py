"""A stage's output folder: claimed before the work, described by `run.json`, never half-written.

Quick stages build in a hidden sibling folder that is renamed at the end (`stage_folder`); long ones
(training) work in place and are resumed (`claim`/`finish`). Running a finished stage again with the same
settings and inputs does nothing; with other ones it is refused, so no result is ever silently replaced.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from luban import __version__
from luban.config import canonical_json, to_dict
from luban.errors import ConfigError, DataError, MachineError

RUN_FILE = "run.json"


class AlreadyDone(Exception):  # noqa: N818 - it is good news, not an error
    """The stage's folder holds a finished run of the same settings and inputs; the CLI says so, exit 0."""

    def __init__(self, out: Path) -> None:
        self.out = out
        super().__init__(f"{out}: already done with these settings and inputs")


def home() -> Path:
    """Where Luban keeps what it can make or fetch again: $LUBAN_HOME, else ~/.cache/luban."""
    return Path(os.environ.get("LUBAN_HOME") or Path.home() / ".cache" / "luban")


def write_bytes(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write through a temporary name and rename, so that readers see the old or the new file, never half."""
    with atomic_file(path, durable=durable) as work:
        work.write_bytes(content)


@contextlib.contextmanager
def atomic_file(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A hidden file beside `path` to fill; it becomes `path` if the block ends well, and vanishes if not.

    Not `durable` saves waiting for the disk: whole after a kill, but after a power cut perhaps shorter.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    work = Path(name)
    try:
        yield work
        work.chmod(0o644)
        if durable and work.stat().st_size:
            with work.open("rb") as file:
                os.fsync(file.fileno())
        work.replace(path)
    except BaseException:
        work.unlink(missing_ok=True)
        raise


def write_text(path: Path, content: str, *, durable: bool = True) -> None:
    write_bytes(path, content.encode("utf-8"), durable=durable)


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", durable=durable)


def read_json(path: Path) -> Any:
    """The JSON value in `path`; raises DataError if it is missing or malformed."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError("no such file", where=path) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"not valid JSON: {error}", where=path) from None


def require_space(place: Path, size: int) -> None:
    """Raise MachineError unless `size` bytes are free where `place` is to be written."""
    existing = next(parent for parent in (place, *place.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < size:
        raise MachineError(
            f"{size / 1e6:,.1f} MB are to be written and {free / 1e6:,.1f} MB are free: the disk is full",
            where=place,
            hint="free space, then run it again",
        )


@contextlib.contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """A hidden sibling folder to fill; it becomes `out` if the block ends well, and vanishes if not."""
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        yield work
        work.chmod(0o755)
        if out.exists():
            shutil.rmtree(out)
        work.replace(out)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def fingerprint(path: str | Path) -> str:
    """SHA-256 of a file, or of a folder's relative names and contents (`run.json` and logs left out)."""
    path = Path(path)
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if not path.is_dir():
        raise DataError("no such file or folder", where=path)
    digest = hashlib.sha256()
    for member in sorted(item for item in path.rglob("*") if item.is_file() and item.name != RUN_FILE):
        digest.update(f"{member.relative_to(path)} {fingerprint(member)}\n".encode())
    return digest.hexdigest()


def describe(stage: str, config: Any, inputs: Sequence[str | Path]) -> dict[str, Any]:
    """What `run.json` holds before the work: stage, settings, inputs by path and hash, versions."""
    return {
        "stage": stage,
        "config": to_dict(config),
        "inputs": {str(path): fingerprint(path) for path in inputs},
        "luban": __version__,
        "python": platform.python_version(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "done": False,
    }


def check_out(
    out: str | Path, *, stage: str, config: Any, inputs: Sequence[str | Path] = (), free: Sequence[str] = ()
) -> dict[str, Any]:
    """What `run.json` will hold if `out` is free for this run; writes nothing.

    `free` are dotted settings that may be others when an unfinished run goes on.

    Raises AlreadyDone if the same run is finished there, ConfigError if the folder holds something else.
    """
    out = Path(out)
    mine = describe(stage, config, inputs)
    if out.is_file():
        raise ConfigError("the output is a file, not a folder", where=out, hint="choose another --out")
    if out.is_dir() and any(out.iterdir()):
        _same_run_or_raise(out, mine, free)
    return mine


def claim(
    out: str | Path, *, stage: str, config: Any, inputs: Sequence[str | Path] = (), free: Sequence[str] = ()
) -> Path:
    """Take `out` for a run that works in place: new, or the continuation of the same one.

    Takes and raises what `check_out` does.
    """
    out = Path(out)
    mine = check_out(out, stage=stage, config=config, inputs=inputs, free=free)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / RUN_FILE, mine)
    return out


def finish(out: Path, metrics: dict[str, Any] | None = None) -> None:
    """Mark the run in `out` as done and record its `metrics`."""
    run = read_json(out / RUN_FILE)
    run.update(done=True, finished=time.strftime("%Y-%m-%dT%H:%M:%S%z"), metrics=metrics or {})
    write_json(out / RUN_FILE, run)


@contextlib.contextmanager
def stage_folder(
    out: str | Path, *, stage: str, config: Any, inputs: Sequence[str | Path] = ()
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A folder to fill and a dict for metrics; both appear at `out`, whole, when the block ends well.

    Raises as `check_out` does.
    """
    out = Path(out)
    mine = check_out(out, stage=stage, config=config, inputs=inputs)
    metrics: dict[str, Any] = {}
    with atomic_folder(out) as work:
        write_json(work / RUN_FILE, mine)
        yield work, metrics
        finish(work, metrics)


def _same_run_or_raise(out: Path, mine: dict[str, Any], free: Sequence[str]) -> None:
    if not (out / RUN_FILE).is_file():
        raise ConfigError(
            "the output folder is not empty and not Luban's", where=out, hint="choose another --out"
        )
    theirs = read_json(out / RUN_FILE)
    differing = [name for name in ("stage", "inputs") if theirs.get(name) != mine[name]]
    old, new = theirs.get("config", {}), mine["config"]
    if not theirs.get("done"):
        old, new = _without(old, free), _without(new, free)
    differing += [f"config.{key}" for key in sorted(set(old) | set(new)) if old.get(key) != new.get(key)]
    if canonical_json(old) == canonical_json(new) and not differing:
        if theirs.get("done"):
            raise AlreadyDone(out)
        return
    raise ConfigError(
        f"the folder holds another run (different: {', '.join(differing)})",
        where=out,
        hint=f"choose another --out, or delete {out}",
    )


def _without(config: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """`config` without the settings of these dotted names."""
    heads = {name for name in names if "." not in name}
    inner: dict[str, list[str]] = {}
    for name in set(names) - heads:
        group, _, rest = name.partition(".")
        inner.setdefault(group, []).append(rest)
    return {
        key: _without(value, inner[key]) if key in inner else value
        for key, value in config.items()
        if key not in heads
    }
