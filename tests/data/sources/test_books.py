"""Books and papers: EPUB, PDF and LaTeX give their text in reading order."""

from __future__ import annotations

import io
import itertools
import tarfile
from pathlib import Path

import pypdf
import pytest
from pypdf.generic import DictionaryObject, NameObject, StreamObject

from luban.data.sources import RecordError
from luban.data.sources.latex import clean_latex, without_comments
from tests.data.sources.planted import read, reasons, write, zipped

CONTAINER = '<container><rootfiles><rootfile full-path="OPS/book.opf"/></rootfiles></container>'
OPF = """<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/">
<metadata><dc:title>The Saw</dc:title><dc:creator>Lu Ban</dc:creator><dc:language>en</dc:language>
<dc:rights>CC0</dc:rights></metadata><manifest>
<item id="b" href="two%20.xhtml" media-type="application/xhtml+xml"/>
<item id="a" href="one.xhtml" media-type="application/xhtml+xml"/>
<item id="gone" href="gone.xhtml" media-type="application/xhtml+xml"/>
<item id="pic" href="p.png" media-type="image/png"/></manifest>
<spine><itemref idref="a"/><itemref idref="gone"/><itemref idref="pic"/><itemref idref="b"/></spine></package>"""
CHAPTER = "<html xmlns='http://www.w3.org/1999/xhtml'><body><h1>{0}</h1><p>Text of {0}.</p></body></html>"
BOOK = {
    "META-INF/container.xml": CONTAINER,
    "OPS/book.opf": OPF,
    "OPS/two .xhtml": CHAPTER.format("Two"),
    "OPS/one.xhtml": CHAPTER.format("One"),
}


def test_a_book_is_read_in_the_order_of_its_spine(tmp_path: Path) -> None:
    found, rejected = read(write(tmp_path / "a.epub", zipped(BOOK)))
    assert found[0].text.split() == ["One", "Text", "of", "One.", "Two", "Text", "of", "Two."]
    begins = found[0].meta.pop("chapters")
    assert [found[0].text[begin : begin + 3] for begin in begins] == ["One", "Two"]
    assert found[0].meta == {"title": "The Saw", "author": "Lu Ban", "language": "en", "license": "CC0"}
    assert reasons(rejected) == ["missing_member"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"no zip", "broken_archive"), (zipped({"a": "b"}), "missing_member"), (zipped(BOOK)[:300], "broken_archive"),
     (zipped({**BOOK, "OPS/book.opf": "<package/>"}), "no_text"), (zipped({**BOOK, "OPS/book.opf": ""}), "bad_xml")],
)  # fmt: skip
def test_a_broken_book_is_told(tmp_path: Path, content: bytes, reason: str) -> None:
    found, rejected = read(write(tmp_path / "a.epub", content))
    assert (found, reasons(rejected)) == ([], [reason])


def pdf(path: Path, *pages: str, password: str = "") -> Path:
    writer = pypdf.PdfWriter()
    font = DictionaryObject(
        {NameObject("/Type"): NameObject("/Font"), NameObject("/Subtype"): NameObject("/Type1"),
         NameObject("/BaseFont"): NameObject("/Helvetica")}
    )  # fmt: skip
    for text in pages:
        page = writer.add_blank_page(200, 200)
        fonts = DictionaryObject({NameObject("/F1"): font})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        stream = StreamObject()
        stream.set_data(f"BT /F1 12 Tf 10 100 Td ({text}) Tj ET".encode())
        page[NameObject("/Contents")] = writer._add_object(stream)
    writer.add_metadata({"/Title": "The Saw"})
    if password:
        writer.encrypt(password, algorithm="RC4-128")
    buffer = io.BytesIO()
    writer.write(buffer)
    return write(path, buffer.getvalue())


def test_a_pdf_gives_its_text_layer_with_the_places_of_its_pages(tmp_path: Path) -> None:
    found, _ = read(pdf(tmp_path / "a.pdf", "The first page of a saw", "The second page of it"))
    assert found[0].text == "The first page of a saw\n\nThe second page of it"
    assert found[0].meta["pages"] == [0, 25]
    assert found[0].meta["title"] == "The Saw"


def test_pdfs_without_readable_text_are_told_by_reason(tmp_path: Path) -> None:
    pdf(tmp_path / "a.pdf", "1", "2")
    pdf(tmp_path / "b.pdf", "A page that nobody may read", password="secret")
    whole = pdf(tmp_path / "c.pdf", "A page that is cut into two halves").read_bytes()
    write(tmp_path / "c.pdf", whole[:200])
    found, rejected = read(tmp_path)
    assert not found
    assert [e.reason for e in rejected][:2] == ["scanned", "encrypted"]
    assert rejected[2].reason in ("broken_file", "scanned")


MAIN = r"""% a comment line
\documentclass{article}
\newcommand{\eps}{\varepsilon} \def\R{\mathbb{R}} \newcommand{\both}{\eps\in\R}
\newcommand{\arg}[1]{(#1)}
\title{On {\em saws}}
\begin{document}\maketitle
Cut 5\% of it. % not this
\input{parts/one}
Here \both{} and \arg{x}, not \epsilon.
\begin{comment}
hidden
\end{comment}
\bibliography{refs}
\appendix Not this.
\end{document}"""


def tar(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


CLEANED = "\\maketitle\nCut 5\\% of it. \nThe part.\n\n\nHere \\varepsilon\\in\\mathbb{R} and \\arg{x}, not \\epsilon."


def test_a_paper_is_joined_cleaned_and_written_out(tmp_path: Path) -> None:
    archive = tar({"fig.png": "x", "parts/one.tex": "The part.\n", "main.tex": MAIN})
    write(tmp_path / "2205.01068.tar.gz", archive)
    found, rejected = read(tmp_path / "2205.01068.tar.gz", format="latex")
    assert found[0].text == CLEANED.replace("\n\n\n", "\n\n")
    assert found[0].meta == {"title": "On {\\em saws}", "url": "https://arxiv.org/abs/2205.01068"}
    assert not rejected


def test_a_folder_of_tex_gives_whole_papers_only(tmp_path: Path) -> None:
    write(tmp_path / "p/main.tex", MAIN)
    write(tmp_path / "p/parts/one.tex", "The part.\n")
    write(tmp_path / "secret.tex", "outside")
    write(tmp_path / "p/thief.tex", r"\documentclass{a}\begin{document}Get \input{../secret}\end{document}")
    found, rejected = read(tmp_path / "p")
    assert [d.text for d in found] == [CLEANED.replace("\n\n\n", "\n\n"), r"Get \input{../secret}"]
    assert reasons(rejected) == ["not_a_main_file"]


def test_macros_that_unfold_without_end_are_a_bomb() -> None:
    laughs = "".join(f"\\def\\l{b}{{" + f"\\l{a}" * 10 + "}" for a, b in itertools.pairwise("abcdefghij"))
    with pytest.raises(RecordError) as caught:
        clean_latex(rf"\def\la{{ha ha ha}}{laughs}\begin{{document}}\lj\end{{document}}", 1 << 20, "x")
    assert caught.value.reason == "bomb"
    assert clean_latex(r"\def\x{\x y}\begin{document}\x\end{document}", 999, "x")[0].endswith("y")


def test_a_percent_sign_is_no_comment() -> None:
    assert without_comments("5\\% a\n  % gone\nb \\\\% gone\nc%gone") == "5\\% a\nb \\\\\nc"
