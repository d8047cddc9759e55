"""Token shards hold exactly what the tokenizer made, and say so when they no longer do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.data import prepare, shards
from luban.data.document import Document
from luban.data.shards import TokenShards, write_shards
from luban.errors import DataError, TokenizerError
from luban.folder import read_json, write_json
from tests import tiny

TEXTS = ["鲁班是木匠。", "A saw.", "", "🙂 and more"]


def documents(texts: list[str] = TEXTS) -> list[Document]:
    return [Document(id=f"文件:{number}\n", text=text, source="s") for number, text in enumerate(texts)]


def written(folder: Path, **settings: Any) -> TokenShards:
    write_shards(documents(), tiny.tokenizer(), folder, **settings)
    return TokenShards.open(folder)


@pytest.mark.parametrize("shard_tokens", [1, 12, 1000])
def test_every_document_comes_back_between_its_special_tokens(tmp_path: Path, shard_tokens: int) -> None:
    tokenizer = tiny.tokenizer()
    opened = written(tmp_path, shard_tokens=shard_tokens)
    assert [ids.tolist() for ids in opened] == [
        [tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id] for text in TEXTS if text
    ]
    assert (len(opened), opened.tokens) == (3, sum(map(len, opened)))
    assert opened.lengths.tolist() == [len(ids) for ids in opened]
    assert opened.targets == opened.tokens - 3
    assert opened.vocab == 384
    assert opened.bytes == sum(len(text.encode()) for text in TEXTS)
    assert [opened.document_id(number) for number in range(3)] == ["文件:0\n", "文件:1\n", "文件:3\n"]


def test_without_bos_a_document_begins_with_its_text(tmp_path: Path) -> None:
    tokenizer = tiny.tokenizer()
    assert written(tmp_path, bos=False)[1].tolist() == [*tokenizer.encode("A saw."), tokenizer.eos_id]


def test_no_document_is_split_and_a_shard_ends_once_it_is_full(tmp_path: Path) -> None:
    written(tmp_path, shard_tokens=1)
    index = read_json(tmp_path / "index.json")
    assert [shard["documents"] for shard in index["shards"]] == [1, 1, 1]
    assert index["empty"] == 1


def test_a_large_vocabulary_takes_four_bytes_a_token(tmp_path: Path) -> None:
    write_shards(documents(["ab", "c"]), CodePoints(1 << 17), tmp_path)
    assert (tmp_path / "tokens-00000.bin").stat().st_size == 4 * 5
    assert TokenShards.open(tmp_path)[0].tolist() == [97, 98, (1 << 17) - 1]


def test_an_id_outside_the_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="id 40065 in a vocabulary of 300"):
        write_shards(documents(["鲁"]), CodePoints(300), tmp_path)


def test_a_tokenizer_without_an_end_token_is_refused(tmp_path: Path) -> None:
    tokenizer = CodePoints(300)
    tokenizer.eos_id = None
    with pytest.raises(TokenizerError, match="no end-of-sequence token"):
        write_shards(documents(), tokenizer, tmp_path)


def test_documents_without_any_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no text in these documents"):
        write_shards(documents(["", ""]), tiny.tokenizer(), tmp_path)


@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1).filter(any))
@settings(max_examples=25, deadline=None)
def test_decoding_the_shards_gives_the_texts_back(
    texts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(documents(texts), tiny.tokenizer(), folder, shard_tokens=20)
    found = [tiny.tokenizer().decode(ids.tolist()) for ids in TokenShards.open(folder)]
    assert found == [text for text in texts if text]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "name", "message"),
    [
        (Path.unlink, "tokens-00000.bin", r"tokens-00000\.bin: a shard file is missing"),
        (Path.unlink, "bounds-00000.npy", r"bounds-00000\.npy: a shard file is missing"),
        (Path.unlink, "ids-00000.jsonl", r"ids-00000\.jsonl: a shard file is missing"),
        (Path.unlink, "index.json", "not a shards folder: it has no index.json"),
        (cut, "tokens-00000.bin", r"tokens-00000\.bin: \d+ bytes expected, \d+ found"),
        (flip, "tokens-00000.bin", r"tokens-00000\.bin: corrupted: SHA-256 \w{12}\.\.\. expected, \w{12}"),
        (flip, "bounds-00000.npy", r"bounds-00000\.npy: corrupted"),
        (cut, "index.json", r"index\.json: not valid JSON"),
    ],
)
def test_damage_is_named_by_file(
    tmp_path: Path, damage: Callable[[Path], None], name: str, message: str
) -> None:
    written(tmp_path)
    damage(tmp_path / name)
    with pytest.raises(DataError, match=message):
        TokenShards.open(tmp_path)


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("version", 2, "shards of format 2, this Luban reads 1"),
        ("tokens", 7, r"7 tokens, but \d+ in its shards"),
        ("dtype", "uint7", "unknown dtype 'uint7'"),
        ("shards", [{}], "the index is incomplete: 'documents'"),
    ],
)
def test_an_index_that_contradicts_itself_is_refused(
    tmp_path: Path, entry: str, value: object, message: str
) -> None:
    written(tmp_path)
    write_json(tmp_path / "index.json", {**read_json(tmp_path / "index.json"), entry: value})
    with pytest.raises(DataError, match=message):
        TokenShards.open(tmp_path)


def test_without_checksums_bounds_must_still_fit_the_index(tmp_path: Path) -> None:
    written(tmp_path)
    np.save(tmp_path / "bounds-00000.npy", np.array([0, 5, 9]))
    with pytest.raises(DataError, match=r"\(documents, tokens\) \(3, \d+\) expected, \(2, 9\) found"):
        TokenShards.open(tmp_path, verify=False)


def test_a_document_number_out_of_range_is_an_index_error(tmp_path: Path) -> None:
    opened = written(tmp_path)
    for number in (-1, 3):
        with pytest.raises(IndexError, match=f"document {number} of 3"):
            opened[number]


def test_the_stage_makes_shards_of_the_training_part_or_of_the_holdout(tmp_path: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    raw.write_text("".join(json.dumps({"text": text}) + "\n" for text in tiny.TEXTS), encoding="utf-8")
    prepare.run(prepare.Config(data=(raw,), out=tmp_path / "text", holdout=2))
    tiny.tokenizer().save(tmp_path / "tokenizer")
    for holdout, count in ((False, 3), (True, 2)):
        out = tmp_path / f"shards-{holdout}"
        config = shards.Config(
            data=(tmp_path / "text",), tokenizer=tmp_path / "tokenizer", out=out, holdout=holdout
        )
        results = shards.run(config)
        opened = TokenShards.open(out)
        assert len(opened) == results["documents"] == count
        text_bytes = {document.id: len(document.text.encode()) for document in prepared(tmp_path / "text")}
        assert opened.bytes == sum(text_bytes[opened.document_id(number)] for number in range(count))


def test_a_failed_stage_leaves_nothing_behind(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "a"}\n{"text": 1}\n', encoding="utf-8")
    tiny.tokenizer().save(tmp_path / "tokenizer")
    with pytest.raises(DataError, match=r"bad\.jsonl:2"):
        shards.run(shards.Config(data=(bad,), tokenizer=tmp_path / "tokenizer", out=tmp_path / "out"))
    shutil.rmtree(tmp_path / "tokenizer")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jsonl"]


def prepared(folder: Path) -> list[Document]:
    from luban.data.sources import read_documents

    return [*read_documents([folder]), *read_documents([folder], holdout=True)]


class CodePoints:
    """The simplest tokenizer there is: an id is a code point, the last one ends a document."""

    bos_id: int | None = None
    pad_id: int | None = None
    chat_template: str | None = None
    adds_bos = False

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.eos_id: int | None = vocab_size - 1
        self.stop_ids = (vocab_size - 1,)
        self.special_tokens: Mapping[str, int] = {}

    def encode(self, text: str) -> list[int]:
        return [ord(char) for char in text]

    def encode_batch(self, texts: Any) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Any, *, skip_special: bool = True) -> str:
        return "".join(chr(number) for number in ids if not (skip_special and number == self.eos_id))

    def render(self, messages: Any, **settings: Any) -> Any:
        raise NotImplementedError
