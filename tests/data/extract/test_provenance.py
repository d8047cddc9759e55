"""A page's own word on its language, date and licence is taken where it is plain, and nowhere else."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luban.data.document import Document
from luban.data.extract.dates import iso_date
from luban.data.extract.licenses import license_at
from luban.data.extract.provenance import provenance
from luban.data.step import Batch, Edit
from luban.data.steps.extract import Extract

BY = "https://creativecommons.org/licenses/by/4.0/"
PARAGRAPH = "<p>" + "The old harbour was rebuilt, at great cost, three times in the last century. " * 4


def head(tags: str, html: str = "<html>") -> str:
    return f"<!DOCTYPE html>{html}<head>{tags}</head><body><p>Text</p></body></html>"


@pytest.mark.parametrize(
    ("page", "language"),
    [
        (head("", '<html lang="en-US">'), "en"),
        (head("", "<HTML class=no-js LANG=zh-Hans-CN>"), "zh"),
        (head("", '<html xmlns="http://www.w3.org/1999/xhtml" xml:lang="pt_BR">'), "pt"),
        (head('<meta property="og:locale" content="de_AT">'), "de"),
        (head('<meta http-equiv="Content-Language" content="fr, en">', "<html lang=''>"), "fr"),
        (head('<meta name="DC.Language" content="deu">'), "de"),
        (head("", "<html lang=und>"), None),
        (head("", '<html lang="English, please">'), None),
        (head("", "<html data-lang=en>"), None),
        (head("<!-- <meta name=dc.language content=en> -->"), None),
    ],
)
def test_the_language_is_the_one_that_the_page_declares(page: str, language: str | None) -> None:
    assert provenance(page).get("language") == language


@pytest.mark.parametrize(
    ("page", "date"),
    [
        (head('<meta property="article:published_time" content="2024-05-06T07:08:09+00:00">'), "2024-05-06T07:08:09Z"),
        (head("<meta name='dc.date' content='2024-5-6'>"), "2024-05-06"),
        (head("<meta content=2024 name=DC.Date.Issued />"), "2024"),
        ('<p>By me, <time class=x datetime="2024-05-06">last week</time>', "2024-05-06"),
        ('<p><span itemprop="datePublished" content="2024-05-06">then</span>', "2024-05-06"),
        ('<script type="application/ld+json">{"datePublished": "2024-05-06T07:08:09+02:00"}</script>',
         "2024-05-06T07:08:09+02:00"),
        ("<p>Published 2024-05-06.", None),
        ("<time>2024-05-06</time>", None),
        (head("<meta name=date content=yesterday>"), None),
    ],
)  # fmt: skip
def test_the_date_is_the_one_of_publication(page: str, date: str | None) -> None:
    assert provenance(page).get("date") == date


def test_the_surest_date_counts_wherever_it_stands() -> None:
    tags = (
        '<meta name="date" content="2001-01-01"><meta property="article:published_time" content="2002-02-02">'
    )
    assert provenance(head(tags) + "<time datetime=2003-03-03>")["date"] == "2002-02-02"
    assert (
        provenance(head("<meta name=date content=never>") + "<time datetime=2003-03-03>")["date"]
        == "2003-03-03"
    )


@pytest.mark.parametrize(
    ("page", "spdx"),
    [
        (head(f'<link href="{BY}" rel="license">'), "CC-BY-4.0"),
        (head(f'<link rel="LICENSE nofollow" href="{BY}">'), "CC-BY-4.0"),
        (head(f'<meta name="DCTERMS.license" content="{BY}">'), "CC-BY-4.0"),
        (head('<meta name="copyright" content="The Gazette, 2024. All rights reserved.">'), None),
        (f"<p>Text</p><a class=x rel='license' href='{BY}deed.de'>free</a>", "CC-BY-4.0"),
        (f"<p>Text</p><a href='{BY}'>a picture's licence, perhaps</a>", None),
        (f"<a rel=license href={BY}>one</a><a rel=license href={BY}deed.en>the same</a>", "CC-BY-4.0"),
        (f"<a rel=license href={BY}>one</a><a rel=license href=https://a.org/terms>another</a>", None),
        ("<a rel=license href=/terms>ours</a>", None),
    ],
)
def test_the_licence_is_the_one_that_the_page_links_as_its_own(page: str, spdx: str | None) -> None:
    assert provenance(page).get("license") == spdx


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("http://creativecommons.org/licenses/by-nc-sa/3.0/de/", "CC-BY-NC-SA-3.0-DE"),
        ("//creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0"),
        ("https://creativecommons.org/publicdomain/mark/1.0/", "CC-PDM-1.0"),
        ("https://creativecommons.org/licenses/by-sa/4.0/legalcode.en", "CC-BY-SA-4.0"),
        ("https://www.gnu.org/licenses/fdl-1.3.html", "GFDL-1.3"),
        ("https://www.apache.org/licenses/LICENSE-2.0", "Apache-2.0"),
        ("https://example.org/terms?lang=en", "https://example.org/terms?lang=en"),
        ("all rights reserved", None),
        ("javascript:void(0)", None),
    ],
)
def test_addresses_of_licences_have_names(address: str, name: str | None) -> None:
    assert license_at(address) == name


@pytest.mark.parametrize(
    ("stated", "date"),
    [
        ("2024-05", "2024-05"),
        ("2024/05/06", "2024-05-06"),
        ("20240506", "2024-05-06"),
        ("2024-05-06 07:08", "2024-05-06T07:08:00"),
        ("1804-07-04", "1804-07-04"),
        ("1970-01-01", "1970-01-01"),
        ("1970-01-01T00:00:00Z", None),
        ("0001-01-01T00:00:00", None),
        ("2024-13-06", None),
        ("2024-13", None),
        ("6 May 2024", None),
        ("", None),
    ],
)
def test_only_whole_dates_are_dates(stated: str, date: str | None) -> None:
    assert iso_date(stated) == date


def test_a_page_keeps_what_it_says_and_what_was_known_better() -> None:
    page = (
        head(f"<meta name=dc.date content=2020-01-02><link rel=license href={BY}>", "<html lang=en>")
        + PARAGRAPH
    )
    known = {"content_type": "text/html", "date": "2024-05-06T07:08:09Z", "language": "de", "license": "own"}
    [outcome] = Extract()(Batch([Document(id="0", text=page, source="", meta=known)]))
    assert isinstance(outcome, Edit)
    assert {**known, **outcome.meta} == {
        "content_type": "text/plain",
        "date": "2020-01-02",
        "fetched": "2024-05-06T07:08:09Z",
        "language": "de",
        "license": "CC-BY-4.0",
    }


@given(st.text(st.sampled_from("<>/=\"' amethlinkr-:!0129"), max_size=300))
def test_any_noise_is_read_without_complaint(noise: str) -> None:
    assert set(provenance(f"<html lang=en>{noise}")) <= {"language", "date", "license"}


@pytest.mark.parametrize(
    "piece", ["<meta ", "<!--", "<a rel=license ", "<a rel", "<time ", "itemprop=datePublished <b ", "lang="]
)
def test_tags_that_never_end_take_no_time(piece: str) -> None:
    page = "<html license datePublished " + piece * (400_000 // len(piece))
    began = time.process_time()
    provenance(page)
    assert time.process_time() - began < 1
