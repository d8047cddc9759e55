"""A preference that a program can check: the shorter answer is the better one."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

WORDS = ("red", "green", "blue", "black", "white", "brown", "grey", "pink", "gold", "silver")


def short_and_long(count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Rows that prefer the shorter of two answers, which say the same words."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        asked = [{"role": "user", "content": f"{draw.choice(WORDS)} {number}?"}]
        some = [draw.choice(WORDS) for _ in range(6)]
        few, many = draw.randint(1, 2), draw.randint(4, 6)
        rows.append({"prompt": asked, "chosen": " ".join(some[:few]), "rejected": " ".join(some[:many])})
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows as JSONL."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
