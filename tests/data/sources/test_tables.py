"""Rows of Parquet, CSV and TSV become documents with their other columns as meta."""

from __future__ import annotations

import datetime
from pathlib import Path

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest

from tests.data.sources.planted import read, reasons, write


def test_parquet_rows_keep_their_columns_as_json_values(tmp_path: Path) -> None:
    rows = [
        {
            "text": "a",
            "url": "http://a",
            "date": datetime.datetime(2024, 5, 6),
            "tags": ["x"],
            "raw": b"\0\1",
        },
        {"text": None, "url": None, "date": None, "tags": None, "raw": None},
        {"text": "c", "url": None, "date": None, "tags": None, "raw": None},
    ]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    found, rejected = read(tmp_path / "a.parquet")
    assert [(d.id, d.text) for d in found] == [("a.parquet:1", "a"), ("a.parquet:3", "c")]
    assert found[0].meta == {
        "url": "http://a",
        "date": "2024-05-06T00:00:00",
        "tags": ["x"],
        "raw": "<2 bytes>",
    }
    assert found[1].meta == {}
    assert [(error.reason, str(error.where)[-5:]) for error in rejected] == [("no_text", "row 2")]


def test_a_missing_column_names_the_nearest_and_a_cut_file_is_told(tmp_path: Path) -> None:
    parquet.write_table(arrow.table({"texts": ["a"] * 1000}), tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    write(tmp_path / "b.parquet", whole[: len(whole) // 2])
    write(tmp_path / "c.csv", "texts\na\n")
    found, rejected = read(tmp_path)
    assert not found
    assert reasons(rejected) == ["missing_column", "broken_file", "missing_column"]
    assert "did you mean 'texts'?" in rejected[0].what


def test_damage_within_a_row_group_costs_that_group(tmp_path: Path) -> None:
    table = arrow.table({"text": [f"row {number} " * 40 for number in range(300)]})
    parquet.write_table(
        table, tmp_path / "a.parquet", row_group_size=100, compression="gzip", use_dictionary=False
    )
    chunk = parquet.ParquetFile(tmp_path / "a.parquet").metadata.row_group(1).column(0)
    raw = bytearray((tmp_path / "a.parquet").read_bytes())
    raw[chunk.data_page_offset : chunk.data_page_offset + chunk.total_compressed_size] = (
        b"\xff" * chunk.total_compressed_size
    )
    found, rejected = read(write(tmp_path / "b.parquet", bytes(raw)))
    assert [d.id for d in found] == [f"b.parquet:{n}" for n in (*range(1, 101), *range(201, 301))]
    assert reasons(rejected) == ["broken_file"]


@pytest.mark.parametrize(("name", "cut"), [("a.csv", ","), ("a.tsv", "\t")])
def test_a_quoted_field_may_hold_line_ends_and_wrong_rows_are_told(
    tmp_path: Path, name: str, cut: str
) -> None:
    rows = ["text,url", '"two\nlines, ""quoted""",http://a', "short", "", "a\0b,http://c"]
    content = "\n".join(rows).replace(",http", f"{cut}http").replace("text,url", f"text{cut}url")
    found, rejected = read(write(tmp_path / name, content))
    assert [(d.text, d.meta["url"]) for d in found] == [
        ('two\nlines, "quoted"', "http://a"),
        ("a\0b", "http://c"),
    ]
    assert [(e.reason, str(e.where).rpartition(":")[2]) for e in rejected] == [("bad_row", "4")]


def test_no_row_is_made_of_what_is_left_when_a_line_of_it_is_rejected(tmp_path: Path) -> None:
    raw = b'text,n\nfine,1\n"begins\n\xff\xfe wrong\nends",2\n"' + b"x" * 500 + b'",3\nafter,4\nlast,5\n'
    found, rejected = read(write(tmp_path / "a.csv", raw), max_record_bytes=300)
    assert [d.text for d in found] == ["fine", "last"]
    assert reasons(rejected) == ["bad_encoding", "bad_row", "too_large", "bad_row"]
