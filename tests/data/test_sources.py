"""Files of every accepted kind become documents, and every broken one is named with its place."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import pytest
import zstandard

from luban.data.document import Document
from luban.data.sources import open_text, read_documents, read_source
from luban.errors import DataError, MachineError

ROWS = [{"text": "鲁班做了一把锯子。"}, {"text": "A saw.", "url": "x"}]


def jsonl(path: Path, *rows: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_json_lines_become_documents_named_by_file_and_line(tmp_path: Path) -> None:
    documents = list(read_source(jsonl(tmp_path / "a.jsonl", *ROWS)))
    assert documents == [
        Document(id="a.jsonl:1", text="鲁班做了一把锯子。", source="a.jsonl"),
        Document(id="a.jsonl:2", text="A saw.", source="a.jsonl", meta={"url": "x"}),
    ]


def test_a_row_keeps_its_own_id_source_and_meta_through_json(tmp_path: Path) -> None:
    document = Document(id="7", text="t\n\u2028t", source="web", meta={"lang": "zh", "n": [1]})
    path = tmp_path / "a.jsonl"
    path.write_text(document.to_json() + "\n", encoding="utf-8")
    assert list(read_documents([path])) == [document]


def test_a_folder_is_read_recursively_in_sorted_order_without_hidden_files(tmp_path: Path) -> None:
    jsonl(tmp_path / "c/b/two.jsonl", {"text": "2"})
    (tmp_path / "c/a.txt").write_text("1", encoding="utf-8")
    (tmp_path / "c/z.md").write_text("3", encoding="utf-8")
    (tmp_path / "c/picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "c/.hidden.txt").write_text("no", encoding="utf-8")
    jsonl(tmp_path / "c/run.json", {"text": "no"})
    found = [(document.id, document.text) for document in read_source(tmp_path / "c")]
    assert found == [("c/a.txt:1", "1"), ("c/b/two.jsonl:1", "2"), ("c/z.md:1", "3")]


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_compressed_files_read_as_plain_ones(tmp_path: Path, suffix: str) -> None:
    plain = jsonl(tmp_path / "a.jsonl", *ROWS * 5000)
    packed = tmp_path / f"a.jsonl.{suffix}"
    packed.write_bytes(compressed(plain.read_bytes(), suffix))
    assert [d.text for d in read_source(packed)] == [d.text for d in read_source(plain)]


def test_several_zstd_frames_in_one_file_are_all_read(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.zst"
    path.write_bytes(compressed(b"one ", "zst") + compressed(b"two", "zst"))
    assert next(read_source(path)).text == "one two"


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_compressed_file_cut_short_is_an_error_that_names_it(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.jsonl.{suffix}"
    content = compressed(jsonl(tmp_path / "a.jsonl", *ROWS * 5000).read_bytes(), suffix)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=rf"a\.jsonl\.{suffix}: broken"):
        list(read_source(path))


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_file_that_only_claims_to_be_compressed_is_an_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.txt.{suffix}"
    path.write_text("plain text", encoding="utf-8")
    with pytest.raises(DataError, match="broken"):
        list(read_source(path))


def test_a_missing_zstandard_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt.zst"
    path.write_bytes(compressed(b"one", "zst"))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(MachineError, match=r"pip install 'luban\[data\]'"):
        list(read_source(path))


def test_a_bad_json_line_names_file_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "ok"}\n\n{"text": "bad"\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.jsonl:3: not valid JSON: .* column"):
        list(read_source(path))


def test_rejected_rows_go_to_the_caller_and_reading_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\nnonsense\n["list"]\n{"text": 5}\n{"text": "\xff"}\n{"text": "b"}')
    rejected: list[tuple[str, str]] = []
    documents = list(read_source(path, reject=lambda error, line: rejected.append((str(error.where), line))))
    assert [document.text for document in documents] == ["a", "b"]
    assert [where.rpartition(":")[2] for where, _ in rejected] == ["2", "3", "4", "5"]
    assert rejected[0][1] == "nonsense"
    assert rejected[3][1] == '{"text": "\\xff"}'


def test_a_missing_text_key_names_the_nearest_key_there_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"needs a string 'text'; did you mean 'texts'\?"):
        list(read_source(jsonl(tmp_path / "a.jsonl", {"texts": "a"})))


def test_another_text_key_is_taken(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"content": "a", "text": 5})
    assert next(read_source(path, text_key="content")).text == "a"


def test_half_of_a_surrogate_pair_is_refused_and_a_whole_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "\\ud83d\\ude42"}\n{"text": "\\ud83d"}\n', encoding="utf-8")
    documents = read_source(path)
    assert next(documents).text == "🙂"
    with pytest.raises(DataError, match=r":2: half of a surrogate pair \(\\ud83d\)"):
        next(documents)


def test_a_json_list_is_read_by_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(ROWS, indent=1), encoding="utf-8")
    assert [document.id for document in read_source(path)] == ["a.json:1", "a.json:2"]
    path.write_text(json.dumps([*ROWS, {"no": 1}]), encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.json row 3: a document row needs"):
        list(read_source(path))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_bytes_that_are_not_utf8_are_named_by_line_and_column(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b'{"text": "ok"}\n{"text": "' + "中".encode("gbk") + b'"}\n')
    with pytest.raises(DataError, match=rf"{name}:2: byte 0xd6 at column 11 is not UTF-8(.|\n)*GB18030"):
        list(read_source(path))


def test_a_byte_order_mark_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello")
    (tmp_path / "b.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "hello"}')
    assert [document.text for document in read_source(tmp_path)] == ["hello", "hello"]


def test_a_nul_byte_in_text_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a\0b")
    with open_text(tmp_path / "a.txt") as file:
        assert file.read() == "a\0b"


@pytest.mark.parametrize(
    ("name", "message"),
    [("missing", "no such file or folder"), ("empty", "no file to read"), ("a.png", "cannot read a '.png'")],
)
def test_a_path_with_nothing_to_read_is_an_error(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=message):
        list(read_source(tmp_path / name))


def test_a_documents_folder_gives_training_or_held_out_text_never_both(tmp_path: Path) -> None:
    for name in ("train", "more", "holdout", "quarantine"):
        jsonl(tmp_path / f"{name}.jsonl", {"id": name, "source": "s", "text": name})
    assert [d.text for d in read_documents([tmp_path])] == ["more", "train"]
    assert [d.text for d in read_documents([tmp_path], holdout=True)] == ["holdout"]
    assert [d.text for d in read_documents([tmp_path / "holdout.jsonl"])] == ["holdout"]


@pytest.mark.parametrize("holdout", [False, True])
def test_a_folder_without_documents_is_an_error(tmp_path: Path, holdout: bool) -> None:
    with pytest.raises(DataError, match="luban data prepare"):
        list(read_documents([tmp_path], holdout=holdout))


def compressed(content: bytes, suffix: str) -> bytes:
    return gzip.compress(content) if suffix == "gz" else zstandard.ZstdCompressor().compress(content)
