"""Mail: each message as what its writer wrote, without quotations, signatures and attachments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from luban.data.document import Document, RecordError
from luban.data.sources.charset import to_text
from luban.data.sources.markup import plain_html
from luban.data.sources.opening import BUFFER, bounded, open_bytes, too_large
from luban.data.sources.reading import Options, Reject, Slice, known, shown

ATTRIBUTION = re.compile(
    r"^.{0,300}(?:wrote|writes|said|schrieb[^\n]{0,60}|a écrit|escribió|escreveu|ha scritto|пишет|写道|寫道|の書き込み)"
    r"\s*[:：]?\s*$",
    re.IGNORECASE,
)
"""The line that introduces a quotation."""
FORWARDED = re.compile(
    r"^\s*-{2,}\s*(?:original message|forwarded message|ursprüngliche nachricht)\b", re.IGNORECASE
)
QUOTED = re.compile(r"^(?:\s?[>|]|[A-Z]{1,3}> )")


def read_mbox(part: Slice, options: Options, reject: Reject) -> Iterator[Document]:
    """The messages of an mbox file, named `file:byte offset`; see `read_message`."""
    for offset, raw in _split(part, options, reject):
        try:
            yield _message(raw, f"{part.name}:{offset}", f"{part.path} at byte {offset}", part, offset)
        except RecordError as error:
            reject(error, shown(raw))


def read_message(part: Slice, options: Options, _reject: Reject) -> Iterator[Document]:
    """One message in a file of its own (`.eml`, a maildir).

    The text is the first plain part, else the HTML part as text. Quoted lines go with the line that introduces
    them, the signature with all behind it. `meta` keeps title (subject), date, message_id and in_reply_to; the
    addresses of people are not kept. A message that says nothing of its own is rejected as `no_text`.
    """
    with open_bytes(part.path, max_ratio=options.max_ratio) as file:
        raw = bounded(file, options, part.path)
    yield _message(raw, f"{part.name}:1", str(part.path), part, None)


def own_words(text: str) -> str:
    """The message without quotations and their introductions, forwarded messages and signature."""
    kept: list[str] = []
    for line in text.replace("\r\n", "\n").split("\n"):
        if line in ("-- ", "--") or FORWARDED.match(line):
            break
        if not QUOTED.match(line):
            kept.append(line.rstrip())
        else:
            _drop_introduction(kept)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()


def _drop_introduction(kept: list[str]) -> None:
    """Remove `On ..., ... wrote:` from the end of what is kept, also where it takes two lines."""
    place = len(kept)
    while place and not kept[place - 1]:
        place -= 1
    if place and ATTRIBUTION.match(kept[place - 1]):
        begins = (
            place - 2 if place > 1 and re.match(r"(?:On|Am|Le|El|Em|Il)\b", kept[place - 2]) else place - 1
        )
        del kept[begins:]


def _split(part: Slice, options: Options, reject: Reject) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of each message: one begins at a line `From ` after a blank line."""
    held: list[bytes] = []
    begin, offset, size, after_blank = 0, 0, 0, True
    with open_bytes(part.path, max_ratio=options.max_ratio) as file:
        while line := file.readline(BUFFER):
            if after_blank and line.startswith(b"From "):
                yield from _whole(held, begin, size, part, options, reject)
                held, begin, size = [], offset, 0
            size += len(line)
            if size <= options.max_record_bytes:
                held.append(line)
            offset, after_blank = offset + len(line), not line.strip()
    yield from _whole(held, begin, size, part, options, reject)


def _whole(
    held: list[bytes], begin: int, size: int, part: Slice, options: Options, reject: Reject
) -> Iterator[tuple[int, bytes]]:
    raw = b"".join(held)
    if size > options.max_record_bytes:
        reject(
            too_large(f"the message of {size:,} bytes", options, f"{part.path} at byte {begin}"), shown(raw)
        )
    elif raw.strip():
        first, _, rest = raw.partition(b"\n")
        yield (
            begin,
            re.sub(rb"^>(>*From )", rb"\1", rest if first.startswith(b"From ") else raw, flags=re.MULTILINE),
        )


def _message(raw: bytes, name: str, where: str, part: Slice, offset: int | None) -> Document:
    from email import message_from_bytes
    from email.errors import MessageError

    try:
        message = message_from_bytes(raw)
        text = own_words(_body(message, where))
        about = _about(message)
    except (LookupError, ValueError, AttributeError, IndexError, TypeError, MessageError) as error:
        if isinstance(error, RecordError):
            raise
        # Malformed headers make the standard library's parser fail in these ways.
        raise RecordError(f"broken message: {error!r}", reason="bad_mail", where=where) from None
    if not text:
        raise RecordError("the message says nothing of its own", reason="no_text", where=where)
    return Document(id=name, text=text, source=part.name, meta=about | known(offset=offset))


def _body(message: Any, where: str) -> str:
    """The first plain part, or else the first HTML part as text, decoded; empty if there is neither."""
    shown = [part for part in message.walk() if part.get_content_disposition() != "attachment"]
    for kind in ("text/plain", "text/html"):
        body = next((part for part in shown if part.get_content_type() == kind), None)
        if body is not None:
            raw = body.get_payload(decode=True) or b""
            text, _ = to_text(raw, where, body.get_content_charset())
            return plain_html(text, where) if kind == "text/html" else text
    return ""


def _about(message: Any) -> dict[str, Any]:
    from email.utils import parsedate_to_datetime

    try:
        date = parsedate_to_datetime(str(message["date"])).isoformat() if message["date"] else None
    except ValueError:  # a date that no calendar has; the message itself may be fine
        date = None
    headers = {"title": "subject", "message_id": "message-id", "in_reply_to": "in-reply-to"}
    return known(**{ours: _words(message[theirs]) for ours, theirs in headers.items()}, date=date)


def _words(header: Any) -> str:
    """A header's encoded words decoded; one in an encoding that there is not stays as it came."""
    from email.errors import MessageError
    from email.header import decode_header, make_header

    try:
        text = str(make_header(decode_header(str(header or ""))))
    except (LookupError, ValueError, MessageError):
        text = str(header)
    return " ".join(text.encode("utf-8", "replace").decode().split())
