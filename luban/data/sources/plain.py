"""Files that are one document each: plain text, Markdown with its front matter, HTML as it is."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from typing import Any

import yaml

from luban.data.document import Document
from luban.data.sources.charset import declared_in, to_text
from luban.data.sources.opening import read_whole
from luban.data.sources.reading import Options, Reject, Slice, known

FRONT = re.compile(r"(---|\+\+\+)[ \t]*\r?\n(.*?)\r?\n\1[ \t]*(?:\r?\n|$)", re.DOTALL)
FRONT_CHARS = 1 << 16
"""Front matter is looked for in so many characters."""
KEYS = {"lang": "language", "licence": "license", "permalink": "url", "link": "url"}


def read_text(part: Slice, options: Options, _reject: Reject) -> Iterator[Document]:
    """The file as one document; its encoding stands in `meta` where it is not UTF-8."""
    text, meta = _decoded(part, options)
    yield Document(id=f"{part.name}:1", text=text, source=part.name, meta=meta)


def read_markdown(part: Slice, options: Options, _reject: Reject) -> Iterator[Document]:
    """The file as one document, its YAML or TOML front matter in `meta`.

    What only looks like front matter (no mapping in it) stays text.
    """
    text, meta = _decoded(part, options)
    found = FRONT.match(text, 0, FRONT_CHARS)
    values = _front_matter(found[1], found[2]) if found else None
    if found and values is not None:
        text = text[found.end() :]
        meta |= {
            KEYS.get(key, key): value for key, value in values.items() if key not in ("id", "text", "source")
        }
    yield Document(id=f"{part.name}:1", text=text, source=part.name, meta=meta)


def read_html(part: Slice, options: Options, _reject: Reject) -> Iterator[Document]:
    """The page as one document of raw HTML, marked by its `content_type` for an extraction step."""
    raw = read_whole(part.path, options)
    text, encoding = to_text(raw, part.path, declared_in(raw))
    meta = known(content_type="text/html", encoding=None if encoding == "utf-8" else encoding)
    yield Document(id=f"{part.name}:1", text=text, source=part.name, meta=meta)


def _decoded(part: Slice, options: Options) -> tuple[str, dict[str, Any]]:
    text, encoding = to_text(read_whole(part.path, options), part.path)
    return text, known(encoding=None if encoding == "utf-8" else encoding)


class _Plain(yaml.SafeLoader):
    """YAML without references: nine lines of them unfold to gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("a reference in front matter")
        return super().compose_node(parent, index)


def _front_matter(fence: str, content: str) -> dict[str, Any] | None:
    import tomllib

    try:
        values = yaml.load(content, _Plain) if fence == "---" else tomllib.loads(content)
    except (yaml.YAMLError, tomllib.TOMLDecodeError, ValueError, RecursionError):
        return None
    return plain(values) if isinstance(values, dict) else None


def plain(value: Any) -> Any:
    """A value of YAML, TOML or Parquet as JSON has it: dates in ISO 8601, bytes by their length."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
