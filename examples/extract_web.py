"""How `luban/fetch/web.tsv.gz` was made: the World English Bible out of Debian's package sword-text-web.

    apt-get download sword-text-web && dpkg-deb -x sword-text-web_*.deb out
    pip install pysword==0.2.8
    python examples/extract_web.py out/usr/share/sword luban/fetch/web.tsv.gz

One line per verse: book, chapter, verse, text. Footnotes, headings and cross-references are left out; the words
of the text are not changed. The text is in the public domain (DATA.md).
"""

from __future__ import annotations

import gzip
import re
import sys
from pathlib import Path

from pysword.modules import SwordModules  # pyright: ignore[reportMissingImports] - a tool of this script only

NOTES = re.compile(r"<(note|title)\b.*?</\1>", re.DOTALL)
LINE_ENDS = re.compile(r"<(l|lg|div|lb|p)\b[^>]*>")
APPENDIX = " The following words"  # a glossary that the module appends to the last verse
TAGS = re.compile(r"<[^>]+>")


def plain(markup: str) -> str:
    """Words of an OSIS verse: notes become a space, tags vanish, white space is folded."""
    text = TAGS.sub("", LINE_ENDS.sub(" ", NOTES.sub(" ", markup)))
    text = re.sub(r"\s+([,.;:?!’”])", r"\1", " ".join(text.split()))
    return re.sub(r"([“‘(])\s+", r"\1", text)


def main(sword: str, target: str) -> None:
    modules = SwordModules(sword)
    bible = modules.get_bible_from_module(next(iter(modules.parse_modules())))
    lines = []
    for books in bible.get_structure().get_books().values():
        for book in books:
            for chapter, verses in enumerate(book.chapter_lengths, 1):
                for verse in range(1, verses + 1):
                    markup = bible.get(books=[book.name], chapters=[chapter], verses=[verse], clean=False)
                    if text := plain(markup).partition(APPENDIX)[0]:
                        lines.append(f"{book.name}\t{chapter}\t{verse}\t{text}\n")
    with (
        Path(target).open("wb") as raw,
        gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=9, mtime=0) as file,
    ):
        file.write("".join(lines).encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
