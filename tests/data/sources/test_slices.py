"""Slices read in order give what the file gives; bad input costs what is bad and no more."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import tracemalloc
from pathlib import Path

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luban.data.document import Document, parse
from luban.data.sources import (
    Options,
    RecordError,
    Slice,
    group_slices,
    read_slice,
    read_source,
    split_source,
)
from luban.errors import ConfigError, DataError
from tests.data.sources.planted import read, reasons, write


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    lines=st.lists(
        st.sampled_from(["", "\r", "bad", '{"text": "a"}', '{"text": "锯锯锯锯"}', '{"text": "b"}\r'])
    ),
    target=st.integers(1, 60),
    ended=st.booleans(),
)
def test_slices_of_lines_read_as_the_whole_file(
    tmp_path: Path, lines: list[str], target: int, ended: bool
) -> None:
    path = write(tmp_path / "a.jsonl", "\n".join(lines) + ("\n" if ended else ""))
    for name in ("jsonl", "lines"):
        whole, wrong = read(path, format=name)
        parts = split_source(path, target, options=Options(format=name))
        apart = [read_part(pickle.loads(pickle.dumps(part)), name) for part in parts]
        assert [document for found, _ in apart for document in found] == whole
        assert [told for _, rejected in apart for told in rejected] == list(map(str, wrong))


def read_part(part: Slice, name: str) -> tuple[list[Document], list[str]]:
    rejected: list[str] = []
    reading = read_slice(
        part, options=Options(format=name), reject=lambda error, _: rejected.append(str(error))
    )
    return list(reading), rejected


def test_slices_of_row_groups_read_as_the_whole_file(tmp_path: Path) -> None:
    table = arrow.table({"text": [f"row {number}" for number in range(1000)]})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=70)
    parts = split_source(tmp_path / "a.parquet", 2000)
    assert len(parts) > 3
    assert [d for part in parts for d in read_slice(part)] == list(read_source(tmp_path / "a.parquet"))


def test_a_folder_splits_into_its_files_and_their_slices(tmp_path: Path) -> None:
    write(tmp_path / "in/a.txt", "one " * 50)
    write(tmp_path / "in/b.jsonl", '{"text": "x"}\n' * 50)
    write(tmp_path / "in/c.jsonl.gz", gzip.compress(b'{"text": "y"}\n' * 5000))
    parts = split_source(tmp_path / "in", 140)
    assert [(part.name, part.begin) for part in parts] == [
        ("in/a.txt", 0),
        *[("in/b.jsonl", 140 * number) for number in range(5)],
        ("in/c.jsonl.gz", 0),
    ]
    assert [d for part in parts for d in read_slice(part)] == list(read_source(tmp_path / "in"))


def test_a_line_beyond_the_limit_is_told_by_its_place_and_never_loaded(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(b'{"text": "a"}\n{"text": "')
        for _ in range(100):
            file.write(b"x" * (1 << 20))
        file.write(b'"}\n{"text": "b"}\n')
    tracemalloc.start()
    found, rejected = read(path, max_record_bytes=1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [d.id for d in found] == ["a.jsonl:1", "a.jsonl:3"]
    assert reasons(rejected) == ["too_large"]
    assert "104,857,613 bytes at byte 14" in rejected[0].what
    assert peak < 8 << 20


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_rows_before_the_damage_are_kept_none_is_half_and_the_file_is_told_once(
    tmp_path: Path, suffix: str
) -> None:
    rows = [json.dumps({"text": os.urandom(400).hex()}) for _ in range(3000)]
    raw = "".join(row + "\n" for row in rows).encode()
    packed = gzip.compress(raw) if suffix == "gz" else zstandard.ZstdCompressor().compress(raw)
    found, rejected = read(write(tmp_path / f"a.jsonl.{suffix}", packed[: len(packed) * 2 // 3]))
    assert reasons(rejected) == [f"broken_{'gzip' if suffix == 'gz' else 'zstd'}"]
    assert 1000 < len(found) < 2100
    assert [d.text for d in found] == [json.loads(row)["text"] for row in rows[: len(found)]]


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    block = b" " * (1 << 20) + b"\n"
    with gzip.open(tmp_path / "a.jsonl.gz", "wb", compresslevel=9) as file:
        for _ in range(128):
            file.write(block)
    found, rejected = read(tmp_path / "a.jsonl.gz")
    assert (found, reasons(rejected)) == ([], ["bomb"])


def test_each_wrong_row_is_told_by_its_own_reason(tmp_path: Path) -> None:
    rows = {
        b'{"text": "fine"}': None,
        b"nonsense": "bad_json",
        b"[1]": "not_an_object",
        b'{"title": 1}': "no_text",
        b'{"text": "\xff"}': "bad_encoding",
        b'{"text": "\\ud800"}': "lone_surrogate",
        b'{"text": "x", "meta": ' + b"[" * 5000 + b"]" * 5000 + b"}": "too_deep",
        b"\0\0\0": "bad_json",
        b'{"text": "after"}': None,
    }
    found, rejected = read(write(tmp_path / "a.jsonl", b"\n".join(rows)))
    assert [d.text for d in found] == ["fine", "after"]
    assert reasons(rejected) == [reason for reason in rows.values() if reason]


def test_a_long_list_is_read_row_by_row_and_what_precedes_the_damage_is_kept(tmp_path: Path) -> None:
    rows = [{"text": f"锯 {number}", "n": [number] * 50} for number in range(9000)]
    whole = json.dumps(rows, ensure_ascii=False, indent=1)
    path = write(tmp_path / "a.json", whole)
    tracemalloc.start()
    assert sum(1 for _ in read_source(path)) == 9000
    assert tracemalloc.get_traced_memory()[1] < len(whole)
    tracemalloc.stop()
    found, rejected = read(write(tmp_path / "a.json", whole[: len(whole) // 2]))
    assert [d.text for d in found] == [row["text"] for row in rows[: len(found)]]
    assert len(found) > 4000
    assert reasons(rejected) == ["bad_json"]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES | st.sampled_from([2**63, -(2**63) - 1, 2**64, 10**40, 1e400, -0.0, 2.0**63]))
def test_the_quick_parser_gives_what_the_standard_one_gives(value: object) -> None:
    line = json.dumps(value)
    try:
        expected = json.loads(line)
        json.dumps(expected, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return
    assert repr(parse(line.encode(), "x")) == repr(expected)


def test_an_unreadable_or_vanished_file_is_one_rejection(tmp_path: Path) -> None:
    write(tmp_path / "in/a.jsonl", '{"text": "a"}\n')
    write(tmp_path / "in/b.jsonl", '{"text": "b"}\n')
    parts = split_source(tmp_path / "in", 1000)
    (tmp_path / "in/a.jsonl").unlink()
    rejected: list[RecordError] = []
    found = [d for part in parts for d in read_slice(part, reject=lambda error, _: rejected.append(error))]
    assert [d.text for d in found] == ["b"]
    assert reasons(rejected) == ["unreadable"]


def test_links_are_followed_once_and_loops_are_told(tmp_path: Path) -> None:
    write(tmp_path / "in/deep/a.txt", "a")
    (tmp_path / "in/deep/up").symlink_to(tmp_path / "in")
    (tmp_path / "in/gone.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "in/self.txt").symlink_to(tmp_path / "in/self.txt")
    write(tmp_path / "other/b.txt", "b")
    (tmp_path / "in/other").symlink_to(tmp_path / "other")
    found, rejected = read(tmp_path / "in")
    assert [d.id for d in found] == ["in/deep/a.txt:1", "in/other/b.txt:1"]
    assert reasons(rejected) == ["symlink_loop", "broken_link", "broken_link"]


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"content": "t", "link": "http://a", "key": 7, "text": "other"}')
    document = next(
        read_source(path, options=Options(text_key="content", columns={"url": "link", "id": "key"}))
    )
    assert (document.id, document.text) == ("7", "t")
    assert document.meta == {"url": "http://a", "other_text": "other"}


def test_a_licence_is_given_to_documents_that_have_none(tmp_path: Path) -> None:
    write(
        tmp_path / "in/a.jsonl",
        '{"text": "t"}\n{"text": "u", "license": "MIT"}\n{"text": "v", "license": null}',
    )
    write(tmp_path / "in/b.txt", "w")
    documents = read_source(tmp_path / "in", options=Options(license="CC-BY-4.0"))
    assert [d.meta["license"] for d in documents] == ["CC-BY-4.0", "MIT", "CC-BY-4.0", "CC-BY-4.0"]


def test_an_unknown_format_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'parquet'"):
        list(read_source(write(tmp_path / "a", ""), options=Options(format="parket")))


def test_an_archive_must_be_asked_for_by_format(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="name the format: jsonl, text"):
        list(read_source(write(tmp_path / "a.zip", "")))


def test_groups_keep_the_order_and_exceed_their_size_only_for_a_single_piece() -> None:
    sizes = [3, 3, 5, 12, 1, 1]
    pieces = [
        Slice(Path("x"), "x", begin, begin + size)
        for begin, size in zip(range(0, 60, 10), sizes, strict=True)
    ]
    groups = group_slices(pieces, 10)
    assert [piece for group in groups for piece in group] == pieces
    held = [[(piece.end or 0) - piece.begin for piece in group] for group in groups]
    assert held == [[3, 3], [5], [12], [1, 1]]
    assert group_slices([], 10) == []
