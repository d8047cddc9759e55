"""The table of refused fields in docs/serving.md, from the code: `python -m tests.serving.fields_page` writes it."""

from __future__ import annotations

import json
from pathlib import Path

from luban.serving.refusals import CHATS, REFUSED, WRITING, Refusal

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"
BEGIN, END = "<!-- refused: begin -->\n", "<!-- refused: end -->"


def table() -> str:
    """Every refused field, where, why, and the values with which it may be sent."""
    rows: list[tuple[str, str, Refusal]] = [
        (name, "completions, chats", one) for name, one in WRITING.items()
    ]
    own = {"CompletionRequest": "completions", "ChatRequest": "chats", "EmbeddingRequest": "embeddings"}
    for kind, where in own.items():
        refused = CHATS if kind == "ChatRequest" else REFUSED[kind]
        rows += [(name, where, one) for name, one in refused.items() if name not in WRITING]
    lines = ["| field | in | why | may be |", "|---|---|---|---|"]
    for name, where, one in rows:
        values = ", ".join(f"`{json.dumps(value)}`" for value in (None, *one.neutral))
        lines.append(f"| `{name}` | {where} | {one.reason} | {values} |")
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """`text` with the table as it is now."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
