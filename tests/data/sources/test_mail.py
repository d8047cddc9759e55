"""Mail gives what its writers wrote themselves."""

from __future__ import annotations

from email.message import EmailMessage
from pathlib import Path

import pytest

from luban.data.sources.mail import own_words
from tests.data.sources.planted import read, reasons, write


def mail(text: str, charset: str = "utf-8", html: str = "") -> EmailMessage:
    message = EmailMessage()
    message["Subject"], message["From"], message["Date"] = (
        "Über saws",
        "a@b.org",
        "Mon, 6 May 2024 07:08:09 +0200",
    )
    message["Message-ID"], message["In-Reply-To"] = "<2@b>", "<1@b>"
    if text:
        message.set_content(text, charset=charset)
    if html:
        message.add_alternative(html, subtype="html")
    return message


def test_a_message_gives_its_plain_part_decoded_and_no_addresses(tmp_path: Path) -> None:
    message = mail("Die Säge\nist scharf.\n", "iso-8859-1", html="<p>other</p>")
    message.add_attachment(b"\0\1", maintype="application", subtype="pdf", filename="x.pdf")
    found, _ = read(write(tmp_path / "a.eml", message.as_bytes()))
    assert found[0].text == "Die Säge\nist scharf."
    assert found[0].meta == {
        "title": "Über saws",
        "date": "2024-05-06T07:08:09+02:00",
        "message_id": "<2@b>",
        "in_reply_to": "<1@b>",
    }


def test_a_message_of_html_only_gives_its_text(tmp_path: Path) -> None:
    message = mail("")
    message.set_content("<p>One &amp; two</p><ul><li>three</li></ul>", subtype="html")
    found, _ = read(write(tmp_path / "a.eml", message.as_bytes()))
    assert found[0].text.split() == ["One", "&", "two", "three"]


def test_an_mbox_is_split_at_its_messages_and_oversized_ones_are_passed_over(tmp_path: Path) -> None:
    bodies = ["first\n\n>From here it is text\n", "x" * 5000 + "\n", "third\n", "> all quoted\n"]
    raw = b"".join(b"From a@b Mon May  6\n" + mail(body).as_bytes() + b"\n" for body in bodies)
    found, rejected = read(write(tmp_path / "a.mbox", raw), max_record_bytes=3000)
    assert [d.text for d in found] == ["first\n\nFrom here it is text", "third"]
    assert found[0].id == "a.mbox:0"
    assert raw[found[1].meta["offset"] :].startswith(b"From a@b")
    assert reasons(rejected) == ["too_large", "no_text"]


@pytest.mark.parametrize(
    "introduction",
    ["On Monday, A. B. wrote:", "On Mon, 6 May 2024 at 07:08,\nA. B. <a@b.org> wrote:", "Am 6. Mai schrieb A. B.:",
     "Le lundi, A. B. a écrit :", "2024年5月6日，鲁班 写道："],
)  # fmt: skip
def test_a_quotation_goes_with_its_introduction_and_a_signature_with_all_behind(introduction: str) -> None:
    text = f"Hello,\n\n{introduction}\n\n> quoted\n> more\n>\n\nMy answer.\n\n-- \nA. B.\nstreet"
    assert own_words(text) == "Hello,\n\nMy answer."


def test_words_that_only_look_like_an_introduction_stay() -> None:
    assert own_words("As he wrote:\n\nsaws cut.") == "As he wrote:\n\nsaws cut."


@pytest.mark.parametrize(
    "raw", [b"", b"\xff\xfe\0\0", b'Content-Type: text/plain; charset="nonsense\n\n\x00', b"Date: no\n\nx"]
)
def test_no_bytes_stop_the_reader(tmp_path: Path, raw: bytes) -> None:
    found, rejected = read(write(tmp_path / "a.eml", raw))
    assert len(found) + len(rejected) == 1
