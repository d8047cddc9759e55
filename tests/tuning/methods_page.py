"""The settings of docs/tuning.md: every method of `peft.METHODS` with its paper, its files and its settings.

    python -m tests.tuning.methods_page    writes them again

They follow from the code, and a test compares. The table of figures on the page is `benchmarks/peft.py`'s.
"""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

from luban.config import field_docs
from luban.folder import write_text
from luban.peft import METHODS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tuning.md"
BEGIN, END = "<!-- settings -->\n", "<!-- end of settings -->"
SHARED = ("lora", "lora_fa", "relora", "qlora")
"""Methods with LoRA's settings, which are told once."""


def settings() -> str:
    """The part of the page between its marks."""
    head = "| `peft.method` | what is trained | `final/` | paper |\n|---|---|---|---|\n"
    rows = [f"| `{name}` | {way.summary} | {_file(way)} | {way.paper} |" for name, way in METHODS.items()]
    return head + "\n".join(rows) + "\n\n" + "\n\n".join(map(_settings, METHODS)) + "\n"


def outside(text: str) -> tuple[str, str]:
    """What stands before and after that part."""
    before, rest = text.split(BEGIN)
    return before, rest.split(END)[1]


def page(text: str) -> str:
    """The page with that part made anew."""
    before, after = outside(text)
    return f"{before}{BEGIN}\n{settings()}\n{END}{after}"


def _file(way: Any) -> str:
    if way.peft_type:
        return "an adapter that `peft` reads"
    return "a whole model" if _merges_always(way) else "an adapter of Luban's own"


def _merges_always(way: Any) -> bool:
    """Whether the class of adapters in the method's file changes the base for good."""
    module = inspect.getmodule(way.apply)
    return any(
        getattr(member, "changes_base", False)
        for _, member in inspect.getmembers(module, inspect.isclass)
        if member.__module__ == module.__name__  # type: ignore[union-attr] - a function has a module
    )


def _settings(name: str) -> str:
    way = METHODS[name]
    told = field_docs(way.config)
    known = field_docs(METHODS["lora"].config) if name in SHARED[1:] else {}
    own = [field for field in dataclasses.fields(way.config) if known.get(field.name) != told[field.name]]
    lines = [f"`{name}`" + (", and LoRA's settings:" if known else ":")]
    lines += [f"- `{field.name}`{_default(field)}: {told[field.name]}" for field in own]
    return "\n".join(lines) if len(lines) > 1 else f"`{name}` has LoRA's settings."


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING or field.default in ("", ()):
        return ""
    value = field.default
    return f" [{','.join(value)}]" if isinstance(value, tuple) else f" [{value}]"


if __name__ == "__main__":
    write_text(PAGE, page(PAGE.read_text(encoding="utf-8")))
