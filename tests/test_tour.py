"""The documents are true: every block of docs/tour.md runs, and every file that docs/sources.md names is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def test_every_block_of_the_tour_runs() -> None:
    text = (ROOT / "docs" / "tour.md").read_text("utf-8")
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) > 8
    for block in blocks:
        exec(compile(block, "docs/tour.md", "exec"), names)


def test_every_file_that_a_source_names_is_there() -> None:
    rows = (ROOT / "docs" / "sources.md").read_text("utf-8")
    files = re.findall(r"`(luban/[^`]+)`", rows)
    assert files
    assert not [name for name in files if not (ROOT / name).is_file()]


def test_links_of_the_pages_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
