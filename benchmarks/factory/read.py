"""Reading alone: JSON lines beside `json`, a WARC file of real pages beside bare fastwarc and warcio."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from factory import corpus
from factory.measure import apart, in_turn, rates, save, table
from factory.web import crawl
from luban.data.document import RecordError
from luban.data.sources import Options, read_slice, split_source


def run(options: Namespace) -> None:
    lines, _ = corpus.planted(options.kind, options.megabytes)
    pages = crawl(100)
    html = apart(_luban, pages).value / 1e6
    works = {
        "jsonl": in_turn(
            {"luban": lambda: apart(_luban, lines), "json.loads": lambda: apart(_json, lines)}, options.rounds
        ),
        "warc": in_turn(
            {
                "luban": lambda: apart(_luban, pages),
                "fastwarc alone": lambda: apart(_fastwarc, pages),
                "warcio alone": lambda: apart(_warcio, pages),
            },
            options.rounds,
        ),
    }
    found: dict[str, Any] = {
        "jsonl": rates(lines.stat().st_size / 1e6, works["jsonl"], "luban"),
        "warc": rates(html, works["warc"], "luban"),
        "characters": {
            f"{kind}, {side}": each[0].value for kind, sides in works.items() for side, each in sides.items()
        },
    }
    table(f"reading {lines.name}, {lines.stat().st_size / 1e6:.1f} MB", found["jsonl"])
    table(
        f"reading {pages.name}, {html:.1f} M characters of HTML; the peers only decode UTF-8", found["warc"]
    )
    table("characters read", [found["characters"]])
    print(save("read", found))


def _luban(path: Path) -> Callable[[], int]:
    (part,) = split_source(path, 1 << 40, options=Options(), reject=_refuse)
    documents = read_slice(part, options=Options(), reject=_refuse)
    return lambda: sum(len(document.text) for document in documents)


def _refuse(error: RecordError, _shown: str) -> None:
    raise error


def _json(path: Path) -> Callable[[], int]:
    def work() -> int:
        with path.open(encoding="utf-8") as file:
            return sum(len(json.loads(line)["text"]) for line in file)

    return work


def _fastwarc(path: Path) -> Callable[[], int]:
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    def work() -> int:
        with path.open("rb") as file:
            records = ArchiveIterator(file, record_types=WarcRecordType.response)
            return sum(len(record.reader.read().decode("utf-8", "replace")) for record in records)

    return work


def _warcio(path: Path) -> Callable[[], int]:
    from warcio.archiveiterator import ArchiveIterator

    def work() -> int:
        with path.open("rb") as file:
            records = (record for record in ArchiveIterator(file) if record.rec_type == "response")
            return sum(len(record.content_stream().read().decode("utf-8", "replace")) for record in records)

    return work
