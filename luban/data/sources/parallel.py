"""Parallel text: translation catalogues (PO), translation memories (TMX), and pairs of files line by line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from luban.data.document import Document, RecordError, decode
from luban.data.sources.charset import to_text
from luban.data.sources.markup import iterate_xml
from luban.data.sources.opening import BUFFER, lines, open_bytes, read_whole
from luban.data.sources.reading import Options, Reject, Slice, known, shown

CHARSET = re.compile(rb"Content-Type:[^\n]*charset=([\w-]+)")
ESCAPE = re.compile(r"\\(.)")
ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}
KEYWORD = re.compile(r"(msgctxt|msgid_plural|msgid|msgstr(?:\[\d+\])?)\s+(\".*\")\s*$")
XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"


def read_po(part: Slice, options: Options, reject: Reject) -> Iterator[Document]:
    """The translated entries of a PO catalogue, one document each.

    Both sides stand in `meta.translation` by language ({"en": ..., "fr": ...}: the source counts as English
    unless `languages` says otherwise) and in the text by `template`. Obsolete entries are comments; rejected
    are `untranslated`, `fuzzy` (unsure ones) and malformed entries.
    """
    target = ""
    for number, entry in _entries(part, options, reject):
        where = f"{part.path}:{number}"
        if not entry["msgid"]:
            target = _header_language(entry["msgstr"])
            continue
        if not entry["msgstr"] or "fuzzy" in entry["flags"]:
            reason = "fuzzy" if entry["msgstr"] else "untranslated"
            reject(RecordError(f"{reason} entry", reason=reason, where=where), shown(entry["msgid"]))
            continue
        languages = options.languages or ("en", target or part.path.name.partition(".")[0])
        both = (entry["msgid"], entry["msgstr"])
        yield _pair(both, languages, number, part, options, known(context=entry["msgctxt"]))


def read_tmx(part: Slice, options: Options, reject: Reject) -> Iterator[Document]:
    """The units of a TMX memory that have both languages (`languages`, or the header's and the first other)."""
    source = ""
    with open_bytes(part.path, max_ratio=options.max_ratio) as file:
        for number, element in enumerate(iterate_xml(file, ("header", "tu"), part.path)):
            if _tag(element) == "header":
                source = (element.get("srclang") or "").lower()
                continue
            sides = {_language(tuv): _segment(tuv) for tuv in element if _tag(tuv) == "tuv"}
            pair = options.languages or _default_pair(source, list(sides))
            found = [next((text for key, text in sides.items() if _matches(key, name)), "") for name in pair]
            if not all(found):
                where = f"{part.path} unit {number}"
                what = f"has {', '.join(sides) or 'no language'}, not {' and '.join(pair)}"
                reject(
                    RecordError(what, reason="untranslated", where=where), shown(" | ".join(sides.values()))
                )
                continue
            yield _pair((found[0], found[1]), pair, number, part, options, {})


def read_pairs(part: Slice, options: Options, reject: Reject) -> Iterator[Document]:
    """Two files whose lines are translations of one another: `name.en` is read with its partner `name.zh`.

    Lines of which one side is blank are rejected as `untranslated`. Raises RecordError if the partner is missing
    or longer or shorter: then no line can be trusted (`unequal_lines`).
    """
    assert options.languages is not None, "list_files asks for the languages"
    partner = partner_of(part.path, options.languages)
    if not partner.is_file():
        raise RecordError(f"its partner {partner.name} is missing", reason="missing_partner", where=part.path)
    if (counts := (_count(part.path), _count(partner)))[0] != counts[1]:
        what = f"{counts[0]:,} lines, but {counts[1]:,} in {partner.name}"
        raise RecordError(what, reason="unequal_lines", where=part.path)
    with open_bytes(part.path) as one, open_bytes(partner) as two:
        left, right = (lines(file, part, options, reject, blank=True) for file in (one, two))
        for number, both in _aligned(left, right):
            try:
                sides = _sides(both, f"{part.path}:{number}")
            except RecordError as error:
                reject(error, shown(b"\t".join(both)))
                continue
            yield _pair(sides, options.languages, number, part, options, {})


def partner_of(path: Path, languages: tuple[str, str]) -> Path:
    """The file in the target language: `a.zh.gz` for `a.en.gz`."""
    stem, dot, rest = path.name.rpartition(f".{languages[0]}")
    assert dot, "list_files takes only files in the source language"
    return path.with_name(f"{stem}.{languages[1]}{rest}")


Numbered = Iterator[tuple[int, int, bytes]]


def _aligned(left: Numbered, right: Numbered) -> Iterator[tuple[int, tuple[bytes, bytes]]]:
    """Lines of the same number; one that was too long is missing on its side."""
    number, other = 0, b""
    for wanted, _, line in left:
        while number < wanted:
            number, _, other = next(right, (wanted + 1, 0, b""))
        if number == wanted:
            yield wanted, (line, other)


def _sides(both: tuple[bytes, bytes], where: str) -> tuple[str, str]:
    source, target = decode(both[0], where).strip(), decode(both[1], where).strip()
    if not source or not target:
        raise RecordError("one side is blank", reason="untranslated", where=where)
    return source, target


def _count(path: Path) -> int:
    count, last = 0, b"\n"
    with open_bytes(path) as file:
        while chunk := file.read(BUFFER):
            count, last = count + chunk.count(b"\n"), chunk[-1:]
    return count + (last != b"\n")


def _pair(
    both: tuple[str, str],
    languages: tuple[str, str],
    number: int,
    part: Slice,
    options: Options,
    meta: dict[str, Any],
) -> Document:
    text = options.template.format(source=both[0], target=both[1])
    meta = {"translation": dict(zip(languages, both, strict=True)), **meta}
    return Document(id=f"{part.name}:{number}", text=text, source=part.name, meta=meta)


def _entries(part: Slice, options: Options, reject: Reject) -> Iterator[tuple[int, dict[str, str]]]:
    """The line number and the fields of each entry of a PO file; of plural forms, the first translation."""
    raw = read_whole(part.path, options)
    charset = CHARSET.search(raw)
    text, _ = to_text(raw, part.path, charset[1].decode() if charset else None)
    number = 1
    for block in re.split(r"\n[ \t]*(?=\n)", text.replace("\r\n", "\n")):
        first = number + len(block) - len(block.lstrip("\n"))
        number += block.count("\n") + 1
        try:
            entry = _entry(block)
        except ValueError as error:
            where = f"{part.path}:{first}"
            reject(
                RecordError(f"not a PO entry: {error}", reason="bad_po", where=where), shown(block.strip())
            )
            continue
        if entry is not None:
            yield first, entry


def _entry(block: str) -> dict[str, str] | None:
    """The fields of one entry; None for comments. Raises ValueError for anything else."""
    entry = {"msgctxt": "", "flags": ""}
    field = ""
    for line in filter(None, map(str.strip, block.split("\n"))):
        if line.startswith("#"):
            entry["flags"] += line[2:] if line.startswith("#,") else ""
        elif found := KEYWORD.match(line):
            field = found[1].removesuffix("[0]")
            entry[field] = _unquoted(found[2])
        elif field and line[0] == line[-1] == '"' and len(line) > 1:
            entry[field] += _unquoted(line)
        else:
            raise ValueError(f"{line:.60}")
    if not field:
        return None
    if "msgid" not in entry or "msgstr" not in entry:
        raise ValueError("no msgid or no msgstr")
    return entry


def _unquoted(quoted: str) -> str:
    return ESCAPE.sub(lambda found: ESCAPES.get(found[1], found[1]), quoted[1:-1])


def _header_language(header: str) -> str:
    found = re.search(r"^Language:[ \t]*([\w@.-]+)", header, re.MULTILINE)
    return found[1].partition(".")[0] if found else ""


def _tag(element: Any) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _language(tuv: Any) -> str:
    return (tuv.get(XML_LANG) or tuv.get("lang") or "").lower()


def _segment(tuv: Any) -> str:
    segment = next((child for child in tuv if _tag(child) == "seg"), None)
    return " ".join("".join(segment.itertext()).split()) if segment is not None else ""


def _matches(found: str, wanted: str) -> bool:
    """`en-gb` is English."""
    return found == wanted.lower() or found.partition("-")[0] == wanted.lower()


def _default_pair(source: str, found: list[str]) -> tuple[str, str]:
    first = next((key for key in found if _matches(key, source)), found[0] if found else "")
    return first, next((key for key in found if key != first), "")
