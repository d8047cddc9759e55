"""Web archives give their pages, and give up only what is damaged."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path

import pytest
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from luban.data.sources import read_slice, split_source
from luban.data.sources.warc import _joined
from tests.data.sources.planted import HTTP, page, read, reasons, warc, warc_record, write

PAGES = [f"<html><body><p>Page {number}: {'鲁班 saw ' * 40}</p></body></html>" for number in range(30)]


def test_a_page_keeps_its_url_date_type_and_offset(tmp_path: Path) -> None:
    first, second = page(PAGES[0], WARC_Target_URI="http://a.org/0"), page(PAGES[1])
    found, rejected = read(warc(tmp_path / "a.warc.gz", first, second))
    assert [document.text for document in found] == PAGES[:2]
    begins = len(gzip.compress(first))
    assert (found[1].id, found[1].meta["offset"]) == (f"a.warc.gz:{begins}", begins)
    assert found[0].meta == {
        "url": "http://a.org/0",
        "date": "2024-05-06T07:08:09Z",
        "content_type": "text/html",
        "offset": 0,
    }
    assert not rejected


def test_records_that_are_not_pages_are_told_by_reason_and_those_about_records_are_not_read(
    tmp_path: Path,
) -> None:
    path = warc(
        tmp_path / "a.warc",
        warc_record(b"", kind="warcinfo"),
        warc_record(b"GET / HTTP/1.1\r\n\r\n", kind="request"),
        warc_record(HTTP.replace(b"200 OK", b"404 No") % b"utf-8" + b"<html>"),
        warc_record(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n\x89PNG"),
        page(PAGES[0]),
    )
    found, rejected = read(path)
    assert len(found) == 1
    assert reasons(rejected) == ["http_status", "content_type"]


def test_what_another_writer_wrote_reads_the_same(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    writer = WARCWriter(buffer, gzip=True)
    for number, text in enumerate(PAGES):
        head = StatusAndHeaders("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.1")
        payload = io.BytesIO(text.encode())
        record = writer.create_warc_record(
            f"http://a/{number}", "response", payload=payload, http_headers=head
        )
        writer.write_record(record)
    found, _ = read(write(tmp_path / "a.warc.gz", buffer.getvalue()))
    assert [(d.text, d.meta["url"]) for d in found] == [(t, f"http://a/{n}") for n, t in enumerate(PAGES)]


def test_extracted_text_keeps_the_language_the_archive_names(tmp_path: Path) -> None:
    record = warc_record("Die Säge.".encode(), kind="conversion", WARC_Identified_Content_Language="deu,eng")
    found, _ = read(warc(tmp_path / "a.wet", record))
    assert (found[0].text, found[0].meta["language"], found[0].meta["content_type"]) == (
        "Die Säge.",
        "de",
        "text/plain",
    )


@pytest.mark.parametrize("charset", ["gb18030", "shift_jis", "iso-8859-1"])
def test_a_declared_encoding_is_decoded_and_told(tmp_path: Path, charset: str) -> None:
    text = "<p>été</p>" if charset == "iso-8859-1" else "<p>木工の本</p>"
    found, _ = read(warc(tmp_path / "a.warc", page(text, charset)))
    assert found[0].text == text
    assert found[0].meta["encoding"].lower() in (charset, "cp1252", "windows-1252")


def test_a_page_that_declares_wrongly_but_is_utf8_is_utf8(tmp_path: Path) -> None:
    found, _ = read(warc(tmp_path / "a.warc", warc_record(HTTP % b"iso-8859-1" + "<p>锯 é</p>".encode())))
    assert found[0].text == "<p>锯 é</p>"


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_compressed_chunked_body_is_undone_within_the_limit(tmp_path: Path, coding: str) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: %s\r\nTransfer-Encoding: chunked\r\n\r\n"
    packed = (gzip.compress if coding == "gzip" else zlib.compress)(PAGES[0].encode())
    body = b"%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (20, packed[:20], len(packed) - 20, packed[20:])
    path = warc(tmp_path / "a.warc", warc_record(head % coding.encode() + body))
    assert read(path)[0][0].text == PAGES[0]
    assert reasons(read(path, max_record_bytes=400)[1]) == ["too_large"]


def test_a_body_that_only_claims_to_be_chunked_stays_as_it_is() -> None:
    assert _joined(b"<html>plain") == b"<html>plain"


def test_a_damaged_member_costs_its_record_only(tmp_path: Path) -> None:
    members = [gzip.compress(page(text)) for text in PAGES]
    middle = len(members[10]) // 2
    members[10] = members[10][:middle] + b"\x00\xff" * 20 + members[10][middle + 40 :]
    found, rejected = read(write(tmp_path / "a.warc.gz", b"".join(members)))
    assert [d.text for d in found] == PAGES[:10] + PAGES[11:]
    assert reasons(rejected) == ["broken_gzip"]


@pytest.mark.parametrize("name", ["a.warc.gz", "a.warc"])
@pytest.mark.parametrize("short", [30, 200])
def test_a_file_cut_short_gives_its_whole_records_and_is_told(tmp_path: Path, name: str, short: int) -> None:
    whole = warc(tmp_path / name, *map(page, PAGES)).read_bytes()
    found, rejected = read(write(tmp_path / "cut" / name, whole[:-short]))
    assert [d.text for d in found] == PAGES[:-1]
    assert set(reasons(rejected)) <= {"truncated", "broken_gzip", "no_http_head"}
    assert rejected


def test_a_file_that_lacks_only_its_checksum_gives_all_and_is_told(tmp_path: Path) -> None:
    whole = warc(tmp_path / "a.warc.gz", *map(page, PAGES)).read_bytes()
    found, rejected = read(write(tmp_path / "cut.warc.gz", whole[:-1]))
    assert [d.text for d in found] == PAGES
    assert reasons(rejected) == ["broken_gzip"]


def test_a_record_beyond_the_limit_is_passed_over(tmp_path: Path) -> None:
    path = warc(tmp_path / "a.warc.gz", page("<p>" + "x" * 9000), page(PAGES[0]))
    found, rejected = read(path, max_record_bytes=5000)
    assert [d.text for d in found] == PAGES[:1]
    assert reasons(rejected) == ["too_large"]


def test_the_older_arc_format_gives_the_same(tmp_path: Path) -> None:
    body = HTTP % b"utf-8" + PAGES[0].encode()
    records = [(b"filedesc://a.arc 0.0.0.0 20240506070809 text/plain", b"1 0 x\n"),
               (b"http://a.org/ 1.2.3.4 20240506070809 text/html", body),
               (b"http://a.org/p 1.2.3.4 20240506070809 image/png", b"\x89PNG")]  # fmt: skip
    raw = b"".join(b"%s %d\n%s\n" % (head, len(block), block) for head, block in records)
    found, rejected = read(write(tmp_path / "a.arc.gz", gzip.compress(raw)))
    assert (found[0].text, found[0].meta["url"], found[0].meta["date"]) == (
        PAGES[0],
        "http://a.org/",
        "2024-05-06T07:08:09Z",
    )
    assert reasons(rejected) == ["content_type"]


@pytest.mark.parametrize("target", [300, 1000, 5000, 10**6])
def test_slices_of_an_archive_hold_each_record_once_wherever_the_cuts_fall(
    tmp_path: Path, target: int
) -> None:
    path = warc(tmp_path / "a.warc.gz", *(page(text) for text in PAGES))
    whole, _ = read(path)
    assert len(whole) == len(PAGES)
    slices = split_source(path, target)
    assert len(slices) == -(-path.stat().st_size // target)
    parts = [document for part in slices for document in read_slice(part)]
    assert parts == whole


def test_an_archive_in_one_gzip_stream_or_in_none_stays_whole(tmp_path: Path) -> None:
    raw = warc(tmp_path / "a.warc", *(page(text) for text in PAGES))
    (tmp_path / "b.warc.gz").write_bytes(gzip.compress(raw.read_bytes()))
    for path in (raw, tmp_path / "b.warc.gz"):
        (part,) = split_source(path, 300)
        assert [document.text for document in read_slice(part)] == PAGES
