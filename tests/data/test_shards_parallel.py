"""Shards made in parts: the same bytes for any number of workers, and after any kill."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from luban.data import shards, tokenise
from luban.data.document import Document
from luban.data.shards import TokenShards
from luban.errors import DataError, MachineError
from luban.fetch import bible
from luban.folder import AlreadyDone, read_json
from tests import tiny
from tests.conftest import WEB

PART = 20_000


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """300 chapters in three files: plain, packed, and one with empty documents; two sources."""
    import gzip

    folder = tmp_path / "documents"
    folder.mkdir()
    chapters = [(name, "\n".join(verses)) for name, verses in bible.chapters(WEB)][:100]
    rows = [
        Document(id=name, text=text, source=f"s{number % 2}").to_json() + "\n"
        for number, (name, text) in enumerate(chapters)
    ]
    empty = Document(id="none", text="", source="s0").to_json() + "\n"
    (folder / "train-00000.jsonl").write_text("".join(rows[:50]), encoding="utf-8")
    (folder / "train-00001.jsonl.gz").write_bytes(gzip.compress("".join(rows[50:80]).encode()))
    (folder / "train-00002.jsonl").write_text(empty + "".join(rows[80:]) + empty, encoding="utf-8")
    tiny.tokenizer().save(tmp_path / "tokenizer")
    return folder


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenise, "PART_BYTES", PART)


def config(documents: Path, name: str, **changes: Any) -> shards.Config:
    root = documents.parent
    settings = {"shard_tokens": 30_000, "workers": 1, **changes}
    return shards.Config(data=(documents,), tokenizer=root / "tokenizer", out=root / name, **settings)


def content(folder: Path) -> dict[str, bytes]:
    """All files of a shards folder but run.json."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "run.json"}


@pytest.mark.usefixtures("small_parts")
def test_parts_and_workers_leave_the_bytes_of_one_pass(documents: Path):
    from luban.data.sources import read_documents

    whole = documents.parent / "whole"
    whole.mkdir()
    index = shards.write_shards(read_documents([documents]), tiny.tokenizer(), whole, shard_tokens=30_000)
    assert len(index["shards"]) > 2
    for workers in (1, 2):
        made = config(documents, f"by-{workers}", workers=workers)
        results = shards.run(made)
        assert (results["documents"], results["empty"]) == (100, 2)
        assert results["encoder"] == "tiktoken"
        ours, theirs = content(made.out), content(whole)
        assert {**json.loads(ours.pop("index.json")), "tokenizer": ""} == json.loads(theirs.pop("index.json"))
        assert ours == theirs


def test_a_fixed_piece_of_input_is_a_part_whatever_the_files(
    documents: Path, monkeypatch: pytest.MonkeyPatch
):
    frame = tokenise.Frame.of(tiny.tokenizer(), bos=True)
    options: dict[str, Any] = {"tokenizer": documents, "frame": frame, "fast": False}
    assert len(tokenise.parts_of([documents], False, documents, **options)) == 1
    monkeypatch.setattr(tokenise, "PART_BYTES", PART)
    parts = tokenise.parts_of([documents], False, documents, **options)
    assert len(parts) > 10
    assert [part.index for part in parts] == list(range(len(parts)))
    names = {piece.path.name for part in parts for piece in part.slices}
    assert len(names) == 3


def test_counts_are_kept_per_source(documents: Path):
    made = config(documents, "out")
    results = shards.run(made)
    assert results["sources"] == read_json(made.out / "sources.json")
    for name, own in results["sources"].items():
        assert own["documents"] == 50, name
    for figure in ("documents", "tokens", "bytes"):
        assert sum(own[figure] for own in results["sources"].values()) == results[figure]


@pytest.mark.usefixtures("small_parts")
def test_a_run_that_stopped_does_only_what_is_left(
    documents: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    wanted = config(documents, "whole")
    shards.run(wanted)
    done: list[int] = []
    plain = tokenise.tokenise

    def stopping(part: tokenise.Part) -> int:
        if len(done) == 3:
            raise MachineError("a worker process was killed")
        done.append(part.index)
        return plain(part)

    monkeypatch.setattr(tokenise, "tokenise", stopping)
    broken = config(documents, "broken")
    with pytest.raises(MachineError):
        shards.run(broken)
    (broken.out / "parts" / "00003.bin").write_bytes(b"half")  # a part without counts
    (broken.out / ".index.json.x").write_bytes(b"half")
    monkeypatch.setattr(tokenise, "tokenise", plain)
    capsys.readouterr()
    shards.run(dataclasses.replace(broken, workers=2))
    assert "3 of 1" in capsys.readouterr().err
    assert content(broken.out) == content(wanted.out)


def test_a_run_killed_behind_its_index_only_says_that_it_is_done(documents: Path):
    made = config(documents, "out")
    first = shards.run(made)
    run = read_json(made.out / "run.json")
    (made.out / "run.json").write_text(json.dumps({**run, "done": False}), encoding="utf-8")
    (made.out / "parts").mkdir()
    again = shards.run(made)
    assert {**again, "seconds": 0} == {**first, "seconds": 0}
    assert not (made.out / "parts").exists()


def test_another_number_of_workers_is_the_same_run(documents: Path):
    shards.run(config(documents, "out"))
    with pytest.raises(AlreadyDone):
        shards.run(config(documents, "out", workers=2))


@pytest.mark.usefixtures("small_parts")
def test_a_malformed_row_in_any_part_is_named_and_leaves_nothing(documents: Path):
    with (documents / "train-00002.jsonl").open("a") as file:
        file.write('{"text": 1}\n')
    made = config(documents, "out", workers=2)
    with pytest.raises(DataError, match=r"train-00002\.jsonl:23"):
        shards.run(made)
    assert not made.out.exists()


def test_a_vocabulary_without_a_fast_encoder_is_told_and_used(
    documents: Path, capsys: pytest.CaptureFixture[str]
):
    from luban.tokenizers.train import train

    train(tiny.TEXTS, kind="words", vocab=100).save(documents.parent / "tokenizer")
    made = config(documents, "out")
    assert shards.run(made)["encoder"] == "tokenizers"
    assert "it is WordLevel, not byte-level BPE" in capsys.readouterr().err
    assert len(TokenShards.open(made.out)) == 100


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_same_bytes(documents: Path):
    wanted = config(documents, "whole")
    shards.run(wanted)
    words = (
        f"data shards --data {documents} --tokenizer {documents.parent / 'tokenizer'} --shard-tokens 30000"
    )
    setup = f"import luban.data.tokenise as t; t.PART_BYTES = {PART}; from luban.cli import main"
    out = documents.parent / "killed"
    code = f"{setup}; raise SystemExit(main('{words} --workers 2 --out {out}'.split()))"
    for parts in (1, 2, 4, 7, 11):
        process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
        while process.poll() is None and len(list((out / "parts").glob("*.json"))) < parts:
            time.sleep(0.002)
        assert process.poll() is None, "it was done before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not (out / "index.json").exists()
    subprocess.run([sys.executable, "-c", code], check=True)
    assert content(out) == content(wanted.out)
    assert read_json(out / "run.json")["done"]
