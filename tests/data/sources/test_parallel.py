"""Both sides of parallel text stay together."""

from __future__ import annotations

from pathlib import Path

import pytest

from luban.errors import ConfigError
from tests.data.sources.planted import read, reasons, write

PO = """# header
msgid ""
msgstr ""
"Language: zh_CN\\n"
"Content-Type: text/plain; charset=UTF-8\\n"

#: file.c:3
msgctxt "tool"
msgid "A \\"saw\\"\\n"
"cuts."
msgstr "锯子"

msgid "not yet"
msgstr ""

#, fuzzy, c-format
msgid "unsure"
msgstr "不确定"

msgid "one"
msgid_plural "many"
msgstr[0] "一"
msgstr[1] "多"

msgid broken

#~ msgid "old"
#~ msgstr "旧"
"""
TMX = """<?xml version="1.0"?><tmx version="1.4"><header srclang="en-GB"/><body>
<tu><tuv xml:lang="fr"><seg>la scie</seg></tuv><tuv xml:lang="en-GB"><seg>the <hi>saw</hi></seg></tuv></tu>
<tu><tuv xml:lang="en-GB"><seg>only one</seg></tuv></tu>
<tu><tuv xml:lang="en-GB"><seg>cut</seg></tuv><tuv xml:lang="fr"><seg>coupe</seg></tuv></tu></body></tmx>"""


def test_a_catalogue_gives_its_sure_translations(tmp_path: Path) -> None:
    found, rejected = read(write(tmp_path / "a.po", PO))
    assert [d.meta["translation"] for d in found] == [
        {"en": 'A "saw"\ncuts.', "zh_CN": "锯子"},
        {"en": "one", "zh_CN": "一"},
    ]
    assert found[0].meta["context"] == "tool"
    assert (found[1].id, found[1].text) == ("a.po:20", "one\n一")
    assert [(e.reason, str(e.where).rpartition(":")[2]) for e in rejected] == [
        ("untranslated", "13"),
        ("fuzzy", "16"),
        ("bad_po", "25"),
    ]


@pytest.mark.parametrize("languages", [None, ("en", "fr")])
def test_a_memory_gives_the_units_with_both_languages(
    tmp_path: Path, languages: tuple[str, str] | None
) -> None:
    found, rejected = read(
        write(tmp_path / "a.tmx", TMX), languages=languages, template="{target} = {source}"
    )
    assert [d.text for d in found] == ["la scie = the saw", "coupe = cut"]
    assert list(found[0].meta["translation"].values()) == ["the saw", "la scie"]
    assert reasons(rejected) == ["untranslated"]
    found, rejected = read(write(tmp_path / "b.tmx", TMX[: TMX.index("<seg>only")]), languages=languages)
    assert (len(found), reasons(rejected)) == (1, ["bad_xml"])


def test_entities_in_a_memory_do_not_unfold(tmp_path: Path) -> None:
    laughs = '<!DOCTYPE t [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY f SYSTEM "/etc/passwd">]>'
    found, _ = read(write(tmp_path / "a.tmx", TMX.replace("<tmx", laughs + "<tmx").replace("coupe", "c&f;")))
    assert "root:" not in found[-1].text


def test_paired_files_are_read_line_by_line(tmp_path: Path) -> None:
    write(tmp_path / "p/a.en", b"saw\n\nplane\n\xff\n" + b"x" * 50 + b"\nlast\n")
    write(tmp_path / "p/a.fr", "scie\nrien\nrabot\nx\ny\nfin")
    found, rejected = read(tmp_path / "p", format="pairs", languages=("en", "fr"), max_record_bytes=40)
    assert [(d.id, d.text) for d in found] == [
        ("p/a.en:1", "saw\nscie"),
        ("p/a.en:3", "plane\nrabot"),
        ("p/a.en:6", "last\nfin"),
    ]
    assert reasons(rejected) == ["untranslated", "bad_encoding", "too_large"]


def test_pairs_that_cannot_be_trusted_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.en", "one\ntwo\n")
    assert reasons(read(tmp_path / "a.en", format="pairs", languages=("en", "fr"))[1]) == ["missing_partner"]
    write(tmp_path / "a.fr", "un\n")
    assert reasons(read(tmp_path / "a.en", format="pairs", languages=("en", "fr"))[1]) == ["unequal_lines"]
    with pytest.raises(ConfigError, match="languages"):
        read(tmp_path / "a.en", format="pairs")
