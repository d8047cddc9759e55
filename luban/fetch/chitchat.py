"""The Chit-Chat Challenge's conversations as documents to pretrain on and as rows to tune on.

    documents.jsonl                one conversation a document, turns as lines `A: ...` and `B: ...`;
                                   `split` says which ones are held out, about 2 %
    conversations.jsonl            {"id", "messages"} rows: the first speaker is the user
    conversations-holdout.jsonl    the held-out conversations as rows

A is whoever speaks first. What one person sends in a row is one turn; white space is made single spaces, as
turns are lines. A conversation is a row if it has an answer; a last turn without one is left off.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from luban.data.document import Document
from luban.folder import read_json, write_text

SOURCE = "chitchat-dataset"
HELD_OUT_PERCENT = 2


def convert(dataset: Path, out: Path) -> dict[str, Any]:
    """Write the three files from the package's `dataset.json`; returns how many lines each has."""
    lines: dict[str, list[str]] = {
        "documents.jsonl": [],
        "conversations.jsonl": [],
        "conversations-holdout.jsonl": [],
    }
    for key, conversation in sorted(read_json(dataset).items()):
        turns = list(merged_turns(conversation["messages"]))
        held = is_held_out(key)
        if turns:
            lines["documents.jsonl"].append(document(key, turns, held=held).to_json())
        messages = as_messages(turns)
        if messages:
            name = "conversations-holdout.jsonl" if held else "conversations.jsonl"
            lines[name].append(json.dumps({"id": key, "messages": messages}, ensure_ascii=False))
    for name, rows in lines.items():
        write_text(out / name, "".join(f"{row}\n" for row in rows))
    return {"rows": {name: len(rows) for name, rows in lines.items()}}


def merged_turns(messages: Sequence[Sequence[dict[str, str]]]) -> Iterator[tuple[str, str]]:
    """Each turn as speaker and text: neighbours of one speaker as one, empty ones skipped."""
    speaker, parts = "", list[str]()
    for said in (said for group in messages for said in group):
        words = " ".join(said["text"].split())
        if not words:
            continue
        if parts and said["sender"] != speaker:
            yield speaker, " ".join(parts)
            parts = []
        speaker = said["sender"]
        parts.append(words)
    if parts:
        yield speaker, " ".join(parts)


def document(key: str, turns: Sequence[tuple[str, str]], *, held: bool) -> Document:
    """The conversation as plain text to read."""
    first = turns[0][0]
    text = "\n".join(f"{'A' if speaker == first else 'B'}: {words}" for speaker, words in turns)
    meta = {"turns": len(turns), "split": "holdout" if held else "train"}
    return Document(id=key, text=text, source=SOURCE, meta=meta)


def as_messages(turns: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """The turns as alternating user and assistant, up to the last answer; none if nobody answered."""
    answered = turns[: len(turns) // 2 * 2]
    return [
        {"role": ("user", "assistant")[index % 2], "content": words}
        for index, (_, words) in enumerate(answered)
    ]


def is_held_out(key: str) -> bool:
    """Whether a conversation is kept from training: decided by its id alone, so it never changes."""
    return int(hashlib.sha256(key.encode()).hexdigest(), 16) % 100 < HELD_OUT_PERCENT
