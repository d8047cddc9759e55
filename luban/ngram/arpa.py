"""ARPA files, the text form of a back-off model that KenLM, SRILM and others read and write."""

from __future__ import annotations

import ctypes
import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from luban.errors import DataError
from luban.folder import atomic_file
from luban.native import load, pointer
from luban.ngram.counts import LONGEST
from luban.ngram.kneser_ney import Grams

CHUNK = 1 << 24
NUMBERS = 64
"""More bytes than a line's two numbers and separators take."""


@dataclass(frozen=True)
class ArpaOrder:
    """The n-grams of one order as a file spells them."""

    starts: np.ndarray  # int64 [n-grams * n], into `buffer`
    lengths: np.ndarray
    logp: np.ndarray  # float32 [n-grams]
    backoff: np.ndarray


def write_arpa(path: Path, grams: Sequence[Grams], spelling: np.ndarray, ends: np.ndarray) -> None:
    """Write a model; `spelling` and `ends` are `Vocabulary.spelling`'s."""
    with atomic_file(path) as work, work.open("wb") as file:
        file.write(b"\\data\\\n")
        file.writelines(f"ngram {n}={len(order.logp)}\n".encode() for n, order in enumerate(grams, 1))
        for n, order in enumerate(grams, 1):
            file.write(f"\n\\{n}-grams:\n".encode())
            file.writelines(_lines(order, n, spelling, ends, last=n == len(grams)))
        file.write(b"\n\\end\\\n")


def read_arpa(path: Path) -> tuple[np.ndarray, list[ArpaOrder]]:
    """The file's bytes (mapped, but for `.gz`) and its n-grams, order by order.

    Raises DataError naming the line that is wrong.
    """
    buffer = _bytes_of(path)
    sizes, at = _read_header(buffer, path)
    orders = []
    for n, size in enumerate(sizes, 1):
        at = _expect(buffer, at, f"\\{n}-grams:", path)
        order, at = _read_order(buffer, at, n, size)
        if len(order.logp) < size:
            raise DataError(
                f"line {len(order.logp) + 1} of {size:,} {n}-grams is none", where=_place(path, buffer, at)
            )
        orders.append(order)
    _expect(buffer, at, "\\end\\", path)
    return buffer, orders


def _lines(
    order: Grams, n: int, spelling: np.ndarray, ends: np.ndarray, *, last: bool
) -> Iterator[memoryview]:
    longest = int(np.diff(ends, prepend=0).max()) * n + NUMBERS
    out = np.empty(max(CHUNK, longest), np.uint8)
    begin, written = 0, ctypes.c_int64()
    while begin < len(order.ids):
        begin += _kernel().write_lines(
            pointer(spelling, np.uint8),
            pointer(ends, np.int64),
            pointer(order.ids[begin:], np.uint32),
            n,
            ctypes.c_int64(len(order.ids) - begin),
            pointer(order.logp[begin:], np.float32),
            None if last else pointer(order.backoff[begin:], np.float32),
            ctypes.c_int64(longest),
            pointer(out, np.uint8),
            ctypes.c_int64(len(out)),
            ctypes.byref(written),
        )
        yield out.data[: written.value]


def _read_header(buffer: np.ndarray, path: Path) -> tuple[list[int], int]:
    head = buffer[:4096].tobytes()
    match = re.search(rb"\\data\\\s+((?:ngram\s+\d+\s*=\s*\d+\s+)+)", head)
    if not match:
        raise DataError("no ARPA file: it begins with \\data\\ and `ngram 1=...` lines", where=path)
    sizes = [int(number) for number in re.findall(rb"=\s*(\d+)", match[1])]
    if not 1 <= len(sizes) <= LONGEST:
        raise DataError(f"a model of order {len(sizes)}; up to {LONGEST} can be read", where=path)
    if max(sizes) > len(buffer):
        raise DataError(f"the file is too short for {max(sizes):,} n-grams", where=path)
    return sizes, match.end()


def _expect(buffer: np.ndarray, at: int, title: str, path: Path) -> int:
    """Where the line after `title` begins, blank lines before it passed over."""
    head = buffer[at : at + 256].tobytes()
    match = re.match(rb"\s*" + re.escape(title.encode()) + rb"[ \t\r]*(\n|$)", head)
    if not match:
        place = _place(path, buffer, at + len(head) - len(head.lstrip()))
        raise DataError(f"expected '{title}'", where=place)
    return at + match.end()


def _read_order(buffer: np.ndarray, at: int, n: int, size: int) -> tuple[ArpaOrder, int]:
    """The lines that could be read, and where the next one begins."""
    starts, lengths = np.empty((2, size * n), np.int64)
    logp, backoff = np.empty((2, size), np.float32)
    used = ctypes.c_int64()
    good = _kernel().read_lines(
        pointer(buffer[at:], np.uint8),
        ctypes.c_int64(len(buffer) - at),
        n,
        ctypes.c_int64(size),
        pointer(starts, np.int64),
        pointer(lengths, np.int64),
        pointer(logp, np.float32),
        pointer(backoff, np.float32),
        ctypes.byref(used),
    )
    return ArpaOrder(starts + at, lengths, logp[:good], backoff[:good]), at + used.value


def _bytes_of(path: Path) -> np.ndarray:
    if not path.is_file():
        raise DataError("no such file", where=path)
    if path.suffix != ".gz":
        return np.memmap(path, np.uint8, mode="r") if path.stat().st_size else np.zeros(0, np.uint8)
    try:
        with gzip.open(path) as file:
            return np.frombuffer(file.read(), np.uint8)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"broken gzip: {error}", where=path) from None


def _place(path: Path, buffer: np.ndarray, at: int) -> str:
    return f"{path}:{int((buffer[:at] == ord(chr(10))).sum()) + 1}"


def _kernel() -> ctypes.CDLL:
    library = load(Path(__file__).with_name("arpa.cpp"))
    library.write_lines.restype = library.read_lines.restype = ctypes.c_int64
    return library
