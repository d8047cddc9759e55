"""Evaluation files as rows of texts, whatever their keys are: what decontamination protects.

Every string of a JSON row but its `id`, however deep, is one text of it (question, choices, messages, ...); a
`.txt` or `.md` file has a row per line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luban.data.sources import list_files, open_text
from luban.errors import DataError


@dataclass(frozen=True, kw_only=True)
class EvaluationRow:
    """One example of an evaluation file."""

    id: str
    """Its own `id`, or `file:line`."""
    raw: str
    """The row as one line of JSON."""
    texts: tuple[str, ...]


def evaluation_files(paths: tuple[Path, ...]) -> list[Path]:
    """The files behind files and folders; raises DataError for a path that is missing or cannot be read."""
    return [file for path in paths for file in list_files(path)]


def read_rows(path: Path) -> Iterator[EvaluationRow]:
    """The rows of a `.jsonl`, `.ndjson`, `.json`, `.txt` or `.md` file, also compressed.

    Raises DataError naming file and line for a row that is not JSON or holds no text.
    """
    for number, value in read_values(path):
        where = f"{path}:{number}"
        texts = tuple(_strings(value))
        if not texts:
            raise DataError("there is no text in this row", where=where)
        own = value.get("id") if isinstance(value, dict) else None
        yield EvaluationRow(
            id=f"{path.name}:{number}" if own is None else str(own),
            raw=json.dumps(value, ensure_ascii=False),
            texts=texts,
        )


def read_values(path: Path) -> Iterator[tuple[int, Any]]:
    """Line (or place in a `.json` list) and parsed value of each row."""
    with open_text(path) as file:
        is_list = ".json" in path.suffixes and file.read(64).lstrip().startswith("[")
    with open_text(path) as file:
        if is_list:
            yield from enumerate(_parsed(file.read(), path), 1)
            return
        is_text = not {".json", ".jsonl", ".ndjson"} & set(path.suffixes)
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, {"text": line.strip()} if is_text else _parsed(line, f"{path}:{number}")


def _parsed(text: str, where: object) -> Any:
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        raise DataError(f"not valid JSON: {error.msg} at column {error.colno}", where=where) from None
    except UnicodeEncodeError:
        raise DataError("half of a surrogate pair is not text", where=where) from None
    return value


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str) and value.strip():
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _strings(item) if key != "id" else ()
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
