"""No file stops a run: whatever its bytes are, a reader gives documents and rejections."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest

from luban.data.sources import FORMATS
from tests.data.sources.planted import page, read, write, zipped
from tests.data.sources.test_books import BOOK, MAIN, pdf, tar
from tests.data.sources.test_code import REPO
from tests.data.sources.test_dialogue import DISCORD
from tests.data.sources.test_mail import mail
from tests.data.sources.test_parallel import PO, TMX
from tests.data.sources.test_warc import PAGES

LANGUAGES = ("en", "fr")


def sound(name: str, tmp_path: Path) -> tuple[str, bytes]:
    """A file name and sound content of a format."""
    if name == "parquet":
        parquet.write_table(arrow.table({"text": ["锯 saw"] * 200}), tmp_path / "sound", row_group_size=50)
        return "a.parquet", (tmp_path / "sound").read_bytes()
    if name == "pdf":
        return "a.pdf", pdf(
            tmp_path / "sound", "The first page of a saw", "The second page of it"
        ).read_bytes()
    rows = b"".join(json.dumps({"text": f"row {number}"}).encode() + b"\n" for number in range(50))
    return {
        "jsonl": ("a.json", b"[" + rows.replace(b"\n", b",")[:-1] + b"]"),
        "text": ("a.txt", "鲁班做了一把锯子。".encode() * 9),
        "markdown": ("a.md", b"---\ntitle: x\n---\nbody"),
        "html": ("a.html", PAGES[0].encode()),
        "warc": ("a.warc.gz", b"".join(gzip.compress(page(text)) for text in PAGES)),
        "arc": ("a.arc", b"http://a/ 1.2.3.4 20240506070809 text/html 15\n<html>text</html\n" * 5),
        "table": ("a.csv", b'text,n\n"a\nb",1\nc,2\n' * 9),
        "epub": ("a.epub", zipped(BOOK)),
        "latex": ("a.tar.gz", tar({"main.tex": MAIN, "parts/one.tex": "The part."})),
        "mbox": ("a.mbox", (b"From a@b\n" + mail("text\n").as_bytes() + b"\n") * 5),
        "mail": ("a.eml", mail("text\n", html="<p>x").as_bytes()),
        "po": ("a.po", PO.encode()),
        "tmx": ("a.tmx", TMX.encode()),
        "lines": ("a.log.gz", gzip.compress(rows)),
        "pairs": ("a.en", rows),
        "code": ("a.zip", zipped(REPO)),
        "irc": ("a.log", b"[12:34] <a> b\n" * 9),
        "chat": ("a.json", json.dumps(DISCORD).encode()),
    }[name]


def harmed(raw: bytes, chance: random.Random) -> bytes:
    """The content with a few bytes changed, a piece cut out, doubled or replaced by zeros."""
    content = bytearray(raw)
    for _ in range(chance.randint(1, 4)):
        begin = chance.randrange(len(content) + 1)
        end = min(len(content), begin + chance.choice([1, 1, 4, 40, 4000]))
        size = end - begin
        content[begin:end] = chance.choice(
            [b"", chance.randbytes(size), bytes(size), content[begin:end] * 2, b"\xff" * size]
        )
    return bytes(content)


@pytest.mark.parametrize("name", FORMATS)
def test_harmed_files_of_each_format_are_read_or_told(tmp_path: Path, name: str) -> None:
    file, raw = sound(name, tmp_path)
    write(tmp_path / "a.fr", raw)
    found, _ = read(write(tmp_path / file, raw), format=name, languages=LANGUAGES)
    assert found, "the sound file gives documents"
    chance = random.Random(name)
    for _ in range(25):
        content = harmed(raw, chance)
        found, rejected = read(write(tmp_path / file, content), format=name, languages=LANGUAGES)
        for document in found:
            document.to_json().encode("utf-8")
        assert all(error.reason and error.where is not None for error in rejected)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "raw", [b"", b"\0", b"\n\n", b"\xff\xfe", b"[", b"\x1f\x8b\x08", b"PK\x05\x06" + bytes(18)]
)
def test_nearly_empty_files_are_read_or_told(tmp_path: Path, name: str, raw: bytes) -> None:
    file, _ = sound(name, tmp_path)
    write(tmp_path / "a.fr", raw)
    read(write(tmp_path / file, raw), format=name, languages=LANGUAGES)
