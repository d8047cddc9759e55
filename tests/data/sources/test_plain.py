"""Text, Markdown and HTML files are one document each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.sources.planted import read, reasons, write


def test_html_stays_raw_and_is_marked_for_extraction(tmp_path: Path) -> None:
    page = '<html><meta charset="gb18030"><p>木匠鲁班做了一把锯子</p>'
    found, _ = read(write(tmp_path / "a.html", page.encode("gb18030")))
    assert found[0].text == page
    assert found[0].meta == {"content_type": "text/html", "encoding": "gb18030"}


def test_front_matter_goes_to_meta(tmp_path: Path) -> None:
    content = "---\ntitle: The saw\nlang: en\ndate: 2024-05-06\ntags: [a, b]\n---\n# Saw\n\n---\ntext"
    found, _ = read(write(tmp_path / "a.md", content))
    assert found[0].text == "# Saw\n\n---\ntext"
    assert found[0].meta == {"title": "The saw", "language": "en", "date": "2024-05-06", "tags": ["a", "b"]}
    found, _ = read(write(tmp_path / "b.md", "+++\ntitle = 'T'\n+++\nbody"))
    assert (found[0].text, found[0].meta) == ("body", {"title": "T"})


@pytest.mark.parametrize(
    "content",
    [
        "---\nA line between rules\n---\ntext",
        "---\na: &x [1]\nb: *x\n---\ntext",
        "---\na: [\n---\ntext",
        "--- no",
    ],
)
def test_what_is_no_front_matter_stays_text(tmp_path: Path, content: str) -> None:
    found, _ = read(write(tmp_path / "a.md", content))
    assert (found[0].text, found[0].meta) == (content, {})


def test_a_file_beyond_the_limit_or_without_text_is_rejected_and_the_others_are_read(tmp_path: Path) -> None:
    write(tmp_path / "in/a.txt", "x" * 101)
    write(tmp_path / "in/b.txt", b"\x7fELF" + b"\0\1" * 40)
    write(tmp_path / "in/c.txt", "fine")
    found, rejected = read(tmp_path / "in", max_record_bytes=100)
    assert [d.text for d in found] == ["fine"]
    assert reasons(rejected) == ["too_large", "binary"]
