"""Parallel text out of two Debian packages: aligned by id, held out by page, nothing untranslated."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from luban.data.pairs import read_pairs
from luban.errors import DataError
from luban.fetch import fetch_known
from luban.fetch.known import KNOWN, Known, Pin
from luban.fetch.libreoffice import HELP, convert, is_held_out, split, texts
from luban.folder import read_json
from tests.test_fetch import ar

TRAINED = next(f"text/{n}.html" for n in range(99) if not is_held_out(f"text/{n}.html"))
HELD_OUT = next(f"text/{n}.html" for n in range(999) if is_held_out(f"text/{n}.html"))
ENGLISH = {
    TRAINED: {"par_id1": "Opens a <em>file</em>.", "par_id2": "Same &amp; same", "par_id3": "42 %"},
    HELD_OUT: {"par_id1": "Closes\n  a file.", "hd_id7": "OPENS a file.", "par_id9": "Not in French"},
}
FRENCH = {
    TRAINED: {"par_id1": "Ouvre un fichier.", "par_id2": "Same &amp; same", "par_id3": "42 pour cent"},
    HELD_OUT: {"par_id1": "Ferme un fichier.", "hd_id7": "Ouvrir un fichier."},
}
Pages = dict[str, dict[str, str]]


def make_deb(path: Path, folder: str, pages: Pages) -> str:
    """A package with these pages; returns its SHA-256."""
    tree = io.BytesIO()
    with tarfile.open(fileobj=tree, mode="w:xz") as tar:
        for page, paragraphs in pages.items():
            lines = [f'<p id="{name}" class="x" dir="auto">{text}</p>' for name, text in paragraphs.items()]
            content = f"<html><body>{''.join(lines)}</body></html>".encode()
            member = tarfile.TarInfo(f"./{HELP}/{folder}/{page}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(ar({"debian-binary": b"2.0", "data.tar.xz": tree.getvalue()}))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Known:
    """The real entry, its two packages replaced by small ones on a local mirror."""
    mirror = tmp_path / "mirror"
    monkeypatch.setenv("LUBAN_DEBIAN", mirror.as_uri())
    monkeypatch.setenv("LUBAN_HOME", str(tmp_path / "home"))
    pins = []
    for name, folder, pages in (("en-us", "en-US", ENGLISH), ("fr", "fr", FRENCH)):
        file = mirror / f"pool/main/libr/libreoffice/libreoffice-help-{name}_1_all.deb"
        package = f"libreoffice/libreoffice-help-{name}"
        pins.append(
            Pin(registry="debian", package=package, version="1", sha256=make_deb(file, folder, pages))
        )
    entry = Known(pin=pins[0], partner=pins[1], license="MPL-2.0", convert=convert)
    monkeypatch.setitem(KNOWN, "libreoffice-en-fr", entry)
    return entry


@pytest.mark.usefixtures("known")
def test_paragraphs_of_one_id_become_pairs_of_training_and_held_out_pages() -> None:
    folder = fetch_known("libreoffice-en-fr")
    (trained,) = read_pairs([folder / "pairs.jsonl"])
    (held_out,) = read_pairs([folder / "pairs-holdout.jsonl"])
    assert (trained.source, trained.target) == ("Opens a file.", "Ouvre un fichier.")
    assert (held_out.source, held_out.target) == ("Closes a file.", "Ferme un fichier.")
    row = json.loads((folder / "pairs.jsonl").read_text(encoding="utf-8"))
    assert row["id"] == f"{TRAINED}#par_id1"


def test_both_packages_are_on_record_and_checked(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    run = read_json(fetch_known("libreoffice-en-fr") / "run.json")
    assert [pin["package"] for pin in run["config"]["pin"]] == [
        "libreoffice/libreoffice-help-en-us",
        "libreoffice/libreoffice-help-fr",
    ]
    assert known.partner is not None
    wrong = Pin(registry="debian", package=known.partner.package, version="1", sha256="0" * 64)
    broken = Known(pin=known.pin, partner=wrong, license="MPL-2.0", convert=convert)
    monkeypatch.setitem(KNOWN, "libreoffice-en-fr", broken)
    with pytest.raises(DataError, match="pinned is 0000"):
        fetch_known("libreoffice-en-fr")


def test_tags_and_character_references_are_text_again() -> None:
    page = '<h2 id="hd_id1" dir="auto"><a name="x"></a>A &lt; B</h2><p id="other">no</p><p id="par_id2">\u00a0b</p>'
    assert list(texts(page)) == [("hd_id1", "A < B"), ("par_id2", "b")]


def test_of_a_text_that_stands_twice_one_pair_is_kept_and_none_is_held_out() -> None:
    source = {(TRAINED, "a"): "Open it", (TRAINED, "b"): "open it", (HELD_OUT, "c"): "Open it"}
    target = {key: f"Ouvrir {number}" for number, key in enumerate(source)}
    train, held_out = split(source, target)
    assert [(row["source"], row["target"]) for row in train] == [("Open it", "Ouvrir 0")]
    assert held_out == []


def test_a_package_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="0 packages of the language 'en-us'"):
        convert(tmp_path, tmp_path)


@pytest.mark.slow
def test_the_real_corpus_has_tens_of_thousands_of_pairs() -> None:
    folder = fetch_known("libreoffice-en-fr")
    rows = read_json(folder / "run.json")["metrics"]["rows"]
    assert rows == {"pairs.jsonl": 31839, "pairs-holdout.jsonl": 672}
