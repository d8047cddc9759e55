"""Files of rows in every format: the same values, each with its place, and faults that name it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from luban.data.row_files import read_raw, row_paths
from luban.errors import DataError

ROWS = [{"prompt": "2+2?", "completion": "4, 四"}, {"prompt": 'a "b"', "completion": "line\nline"}]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    return path


def values(path: Path) -> list[Any]:
    return [row.value for row in read_raw(path)]


def faults(path: Path) -> list[str]:
    return [str(row.fault) for row in read_raw(path) if row.fault]


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    lines = "\n".join(map(json.dumps, ROWS))
    write(tmp_path / "a.jsonl", lines)
    write(tmp_path / "b.ndjson", lines + "\n\n")
    write(tmp_path / "c.json", json.dumps(ROWS))
    write(tmp_path / "d.json", lines)
    write(tmp_path / "e.csv", 'prompt,completion\r\n2+2?,"4, 四"\r\n"a ""b""","line\nline"\r\n')
    write(tmp_path / "f.tsv", 'prompt\tcompletion\n2+2?\t4, 四\n"a ""b"""\t"line\nline"\n')
    (tmp_path / "g.json.gz").write_bytes(gzip.compress(json.dumps(ROWS, indent=1).encode()))
    parquet.write_table(arrow.Table.from_pylist(ROWS), tmp_path / "h.parquet")
    found = {path.name: values(path) for path in sorted(tmp_path.iterdir())}
    assert found == dict.fromkeys(found, ROWS)
    assert len(found) == 8


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_tables_delimiter_is_found_in_its_header(delimiter: str, tmp_path: Path) -> None:
    # The records hold every other delimiter more often than the header has its own.
    text = f'question{delimiter}answer\n"a,;|\t,;|\t,;|\t"{delimiter}b\n'
    assert values(write(tmp_path / "a.csv", text)) == [{"question": "a,;|\t,;|\t,;|\t", "answer": "b"}]


def test_a_table_of_one_column_needs_no_delimiter(tmp_path: Path) -> None:
    assert values(write(tmp_path / "a.csv", 'text\nhello\n"you, there"\n')) == [
        {"text": "hello"},
        {"text": "you, there"},
    ]


def test_a_text_file_is_a_row_per_line(tmp_path: Path) -> None:
    rows = list(read_raw(write(tmp_path / "log.txt", "how far?\n\nhow old? \n")))
    assert [row.value for row in rows] == [{"text": "how far?"}, {"text": "how old?"}]
    assert rows[1].where == f"{tmp_path}/log.txt:3"


def test_a_record_over_several_lines_is_placed_where_it_begins(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text,n\n"one\ntwo\nthree",1\nfour,2\n')
    assert [row.where for row in read_raw(path)] == [f"{path}:2", f"{path}:5"]


def test_a_wrong_record_is_handed_on_with_its_text_and_the_others_stay(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'prompt,completion\na,b,c\n"a"b,c\nd,e\n')
    rows = list(read_raw(path))
    assert faults(path) == [
        f"{path}:2: 3 columns, not 2 as in the header",
        f"{path}:3: not valid CSV: ',' expected after '\"'",
    ]
    assert [row.value for row in rows] == ["a,b,c\n", '"a"b,c\n', {"prompt": "d", "completion": "e"}]


def test_a_quote_that_is_never_closed_has_swallowed_the_rest_and_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text\nfine\n"open\nlost\nlost\n')
    with pytest.raises(DataError, match=r"a\.csv:3: a quote that opens here is never closed"):
        values(path)


def test_a_header_with_a_name_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.csv: the header has a name twice .*: text, text"):
        values(write(tmp_path / "a.csv", "text,text\na,b\n"))


def test_a_line_that_is_no_json_is_handed_on_with_its_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"a": 1}\n{"a": \n' + "[" * 100_000 + "\n")
    assert faults(path)[0].startswith(f"{path}:2: not valid JSON: ")
    assert faults(path)[1] == f"{path}:3: not a row: nested too deeply"
    assert values(path)[:2] == [{"a": 1}, '{"a": ']


def test_a_damaged_list_is_an_error_that_says_where(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", '[\n {"a": 1},\n {"a": \n')
    with pytest.raises(DataError, match=r"a\.json:3 row 2: not valid JSON") as caught:
        values(path)
    assert caught.value.hint
    with pytest.raises(DataError, match=r"a\.json:1 row 2: not valid JSON"):
        values(write(path, '[{"a": 1}, '))


def test_nulls_that_parquets_columns_add_are_left_out(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "2+2?", "tool_calls": None},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "add"}]},
    ]
    parquet.write_table(arrow.Table.from_pylist([{"messages": turns}]), tmp_path / "a.parquet")
    assert values(tmp_path / "a.parquet") == [
        {
            "messages": [
                {"role": "user", "content": "2+2?"},
                {"role": "assistant", "tool_calls": [{"name": "add"}]},
            ]
        }
    ]


def test_a_cut_parquet_file_is_an_error(tmp_path: Path) -> None:
    parquet.write_table(arrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[:-20])
    with pytest.raises(DataError, match=r"a\.parquet: broken Parquet"):
        values(tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
def test_a_file_that_is_not_utf8_is_an_error_with_line_byte_and_a_way_out(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes('{"text": "a"}\n{"text": "caf\xe9"}\n'.encode("latin-1"))
    with pytest.raises(DataError, match=rf"{name}:2: byte 0xe9 at column 14 is not UTF-8\n  try: .*iconv"):
        values(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", ""),
        ("a.jsonl", "\n \n"),
        ("a.json", "[]"),
        ("a.csv", ""),
        ("a.csv", "text\n"),
        ("a.txt", "\n"),
    ],
)
def test_a_file_without_rows_is_an_error(name: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"{name}: there are no rows in this file"):
        values(write(tmp_path / name, text))


def test_a_missing_path_and_an_unknown_suffix_are_refused_with_the_choices(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        values(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match=r"rows cannot be read from '\.docx'\n  try: .*\.parquet"):
        values(write(tmp_path / "a.docx", "x"))


def test_a_folder_is_its_files_of_rows_without_what_is_set_aside(tmp_path: Path) -> None:
    for name in (
        "b.jsonl",
        "a.csv",
        "rejected.jsonl",
        "holdout.jsonl",
        "run.json",
        "notes.md",
        ".hidden.jsonl",
    ):
        write(tmp_path / name, "text\nx\n" if name == "a.csv" else '{"text": "y"}\n')
    assert [path.name for path in row_paths(tmp_path)] == ["a.csv", "b.jsonl"]
    assert values(tmp_path) == [{"text": "x"}, {"text": "y"}]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no files of rows in this folder"):
        row_paths(tmp_path / "empty")


@given(
    rows=st.lists(
        st.dictionaries(st.text(max_size=4), st.text(max_size=9) | st.integers(), max_size=3), min_size=1
    )
)
def test_lists_and_lines_keep_any_values(
    rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    write(folder / "a.json", json.dumps(rows, indent=1))
    write(folder / "b.jsonl", "\n".join(map(json.dumps, rows)))
    assert values(folder / "a.json") == values(folder / "b.jsonl") == rows


@settings(max_examples=60)
@given(
    content=st.binary(max_size=60) | st.text(alphabet='[]{}",:;\n\t a1é', max_size=60).map(str.encode),
    name=st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a.parquet", "a.jsonl.gz"]),
)
def test_whatever_stands_in_a_file_is_rows_or_an_error_with_its_place(
    content: bytes, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(content)

    def places() -> list[str]:
        try:
            return [row.where for row in read_raw(path)]
        except DataError as error:
            return [str(error.where)]

    found = places()
    assert found
    assert all(place.startswith(str(path)) for place in found)
