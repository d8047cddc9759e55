"""Dialogue: chat logs and exports, forum threads, comment trees become turns `name: what was said`."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from luban.data.document import Document, RecordError, parse
from luban.data.sources.charset import to_text
from luban.data.sources.opening import BOM, lines, open_bytes, read_whole, suffix
from luban.data.sources.reading import Options, Reject, Slice, known, shown

STAMP = r"(?:\[?\(?[\dT:/. -]{4,25}(?: ?[AP]M)?\]?\)?Z?\s+)?"
SAID = re.compile(rf"^{STAMP}<[@+%&~ ]?([^>\s]{{1,40}})>\s?(.*)$")
TABBED = re.compile(r"^\d{4}-\d\d-\d\d[ T]\d\d:\d\d(?::\d\d)?\t([^\t]{1,40})\t(.*)$")
ACTED = re.compile(rf"^{STAMP}\* ([^\s*]{{1,40}}) (?!has (?:joined|quit|left)|is now known)(.*)$")
NOT_PEOPLE = frozenset(("-->", "<--", "--", "***", "=!=", "*"))

MESSAGES = ("messages", "posts", "turns", "conversation", "conversations", "dialog", "dialogue")
REPLIES = ("replies", "children", "comments")
NAMES = (
    "author",
    "user",
    "from",
    "speaker",
    "name",
    "username",
    "sender",
    "role",
    "nickname",
    "display_name",
)
TEXTS = ("content", "text", "body", "message", "utterance", "value", "selftext")
DATES = ("date", "timestamp", "created_at", "created_utc", "ts", "time")
DEEPEST = 80


class Turn(NamedTuple):
    name: str
    text: str


def read_irc(part: Slice, options: Options, _reject: Reject) -> Iterator[Document]:
    """A chat log as one document; times, joins and other notices are left out, actions stay as `* name waves`.

    Known shapes: `[12:34] <name> text`, `12:34 <name> text`, `date time<TAB>name<TAB>text`, `* name waves`.
    """
    text, _ = to_text(read_whole(part.path, options), part.path)
    turns = [turn for line in text.splitlines() if (turn := irc_turn(line))]
    if not turns:
        raise RecordError("no line of a conversation (<name> text)", reason="no_text", where=part.path)
    yield _document(turns, f"{part.name}:1", part, {})


def irc_turn(line: str) -> Turn | None:
    """Who says what in a line of a log; None for notices."""
    if found := TABBED.match(line):
        return None if found[1].strip() in NOT_PEOPLE else Turn(found[1].strip().lstrip("@+%&~"), found[2])
    if found := SAID.match(line):
        return Turn(found[1], found[2])
    found = ACTED.match(line)
    return Turn("*", f"{found[1]} {found[2]}") if found else None


def read_chat(part: Slice, options: Options, reject: Reject) -> Iterator[Document]:
    """The conversations in a chat or forum export: one per JSON line, or one file (a thread, or a list of them).

    Known are lists of messages (Slack), objects with `messages`, `posts` or the like (Discord, Telegram, forums)
    and trees of `replies` or `children` (comments), of which the longest chain from root to leaf is kept.

    Source: for trees, Zhang et al. 2022 (OPT, arXiv:2205.01068), section 2.3 and appendix C.
    """
    if suffix(part.path) in (".jsonl", ".ndjson"):
        with open_bytes(part.path, max_ratio=options.max_ratio) as file:
            for number, _, line in lines(file, part, options, reject):
                yield from _thread(line, number, f"{part.path}:{number}", part, reject)
        return
    raw = read_whole(part.path, options).removeprefix(BOM)
    value = parse(raw, part.path)
    threads = value if isinstance(value, list) and not any(map(_is_message, value)) else [value]
    for number, thread in enumerate(threads, 1):
        yield from _thread(json.dumps(thread), number, f"{part.path} thread {number}", part, reject)


def _thread(line: str | bytes, number: int, where: str, part: Slice, reject: Reject) -> Iterator[Document]:
    try:
        thread = parse(line, where)
    except RecordError as error:
        reject(error, shown(line))
        return
    turns = longest_chain(thread)
    if not turns:
        error = RecordError("no messages with a name and a text", reason="no_text", where=where)
        reject(error, shown(line))
        return
    yield _document(turns, f"{part.name}:{number}", part, _about(thread))


def longest_chain(thread: Any, depth: int = 0) -> list[Turn]:
    """The turns of a thread in order; where answers branch, those of the chain with the most turns (the first)."""
    if isinstance(thread, Mapping):
        inner = next((thread[key] for key in MESSAGES if isinstance(thread.get(key), list)), None)
        if inner is not None:
            return [*_own(thread), *longest_chain(inner, depth)]
        return _branch(thread, depth)
    if not isinstance(thread, Sequence) or isinstance(thread, str):
        return []
    if any(_answers(item) for item in thread):
        return max((_branch(item, depth) for item in thread), key=len)
    return [turn for item in thread if isinstance(item, Mapping) for turn in _branch(item, depth)]


def _branch(message: Any, depth: int) -> list[Turn]:
    if not isinstance(message, Mapping) or depth > DEEPEST:
        return []
    chains = [_branch(answer, depth + 1) for answer in _answers(message)]
    return _own(message) + max(chains, key=len, default=[])


def _answers(message: Any) -> list[Any]:
    if not isinstance(message, Mapping):
        return []
    return next((message[key] for key in REPLIES if isinstance(message.get(key), list) and message[key]), [])


def _is_message(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(_name(value))
        and not any(isinstance(value.get(key), list) for key in MESSAGES)
    )


def _own(message: Mapping[str, Any]) -> list[Turn]:
    name, text = _name(message), _text(message)
    return [Turn(name, text)] if name and text else []


def _name(message: Mapping[str, Any]) -> str:
    for value in (message.get(key) for key in ("user_profile", *NAMES)):
        if isinstance(value, Mapping):
            value = next(
                (value[key] for key in ("real_name", *NAMES) if isinstance(value.get(key), str)), None
            )
        if isinstance(value, str | int) and str(value).strip():
            return " ".join(str(value).split())
    return ""


def _text(message: Mapping[str, Any]) -> str:
    for value in (message.get(key) for key in TEXTS):
        if isinstance(value, list):  # Telegram: plain strings and objects with a `text`
            pieces = [piece.get("text", "") if isinstance(piece, Mapping) else piece for piece in value]
            value = "".join(map(str, pieces))
        if isinstance(value, str) and value.strip():
            return value.strip()
    return ""


def _about(thread: Any) -> dict[str, Any]:
    if not isinstance(thread, Mapping):
        return {}
    stamp = next((thread[key] for key in DATES if thread.get(key)), None)
    if isinstance(stamp, int | float):
        stamp = datetime.datetime.fromtimestamp(stamp, datetime.UTC).isoformat()
    wanted = {key: thread.get(key) for key in ("title", "url", "language", "license")}
    return known(**{key: value for key, value in wanted.items() if isinstance(value, str)}, date=stamp)


def _document(turns: list[Turn], name: str, part: Slice, meta: dict[str, Any]) -> Document:
    text = "\n".join(f"* {turn.text}" if turn.name == "*" else f"{turn.name}: {turn.text}" for turn in turns)
    people = len({turn.name for turn in turns if turn.name != "*"})
    return Document(
        id=name, text=text, source=part.name, meta=meta | {"turns": len(turns), "speakers": people}
    )
