"""Every raw format by name, and which of them a file is in."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from luban.data.sources.arc import read_arc
from luban.data.sources.archives import ARCHIVES
from luban.data.sources.books import read_epub
from luban.data.sources.code import read_code
from luban.data.sources.dialogue import read_chat, read_irc
from luban.data.sources.latex import read_latex
from luban.data.sources.mail import read_mbox, read_message
from luban.data.sources.opening import COMPRESSED, suffix
from luban.data.sources.parallel import read_pairs, read_po, read_tmx
from luban.data.sources.pdf import read_pdf
from luban.data.sources.plain import read_html, read_markdown, read_text
from luban.data.sources.reading import Options, Reader
from luban.data.sources.rows import read_lines, read_rows
from luban.data.sources.tables import read_parquet, read_table
from luban.data.sources.warc import read_warc
from luban.errors import ConfigError, nearest


class Format(NamedTuple):
    """A reader, and the suffixes by which it is chosen; without any it must be asked for by name."""

    read: Reader
    suffixes: tuple[str, ...] = ()
    compressed: bool = True
    """Whether it may be compressed as a whole (`.gz`, `.zst`)."""


FORMATS: dict[str, Format] = {
    "jsonl": Format(read_rows, (".jsonl", ".ndjson", ".json")),
    "text": Format(read_text, (".txt",)),
    "markdown": Format(read_markdown, (".md", ".markdown")),
    "html": Format(read_html, (".html", ".htm", ".xhtml")),
    "warc": Format(read_warc, (".warc", ".wet")),
    "arc": Format(read_arc, (".arc",)),
    "parquet": Format(read_parquet, (".parquet",), compressed=False),
    "table": Format(read_table, (".csv", ".tsv")),
    "epub": Format(read_epub, (".epub",), compressed=False),
    "pdf": Format(read_pdf, (".pdf",), compressed=False),
    "latex": Format(read_latex, (".tex",)),
    "mbox": Format(read_mbox, (".mbox",)),
    "mail": Format(read_message, (".eml",)),
    "po": Format(read_po, (".po",)),
    "tmx": Format(read_tmx, (".tmx",)),
    "lines": Format(read_lines),
    "pairs": Format(read_pairs),
    "code": Format(read_code),
    "irc": Format(read_irc),
    "chat": Format(read_chat),
}
SUFFIXES = {ending: name for name, form in FORMATS.items() for ending in form.suffixes}


def format_of(path: Path, options: Options) -> str | None:
    """The name of the format to read a file in: the one asked for, else by its suffix; None if no one reads it.

    Raises ConfigError for a format that there is not, and for pairs without their languages.
    """
    if options.format is not None:
        return _asked_for(path, options)
    name = SUFFIXES.get(suffix(path))
    packed = path.suffix.lower() in COMPRESSED
    return name if name is not None and (FORMATS[name].compressed or not packed) else None


def choices() -> str:
    """What can be read, for an error message."""
    return (
        f"{' '.join(SUFFIXES)}, most also with {' or '.join(COMPRESSED)}; for {', '.join(ARCHIVES)}, logs and "
        f"folders of code or mail name the format: {', '.join(FORMATS)}"
    )


def _asked_for(path: Path, options: Options) -> str | None:
    name = options.format
    if name not in FORMATS:
        raise ConfigError(f"format is {name!r}; {nearest(str(name), FORMATS)}")
    if name == "pairs" and options.languages is None:
        raise ConfigError("format pairs needs the languages of both files", hint="languages: [en, zh]")
    if name == "pairs" and options.languages and f".{options.languages[0]}" not in path.suffixes:
        return None  # the partner, which is read with it
    return name
