"""Which files of source code stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from luban.data.steps import code_rules
from luban.data.steps.code_rules import Code
from tests.data.steps.batches import reasons

LINE = "total += (value * 2) - offset[i]; // sum"  # 40 characters, 20 of them letters


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (None, "\n".join([LINE] * 30)),
        ("code_short", LINE),
        ("code_long", "\n".join([LINE] * 5000)),
        ("code_few_letters", "\n".join(["0x00, 0001, 0002, 0003, "] * 30)),
        ("code_many_letters", "\n".join(["only words and words"] * 30)),
        ("code_few_lines", "\n".join([LINE] * 19)),
        ("code_many_lines", "\n".join([LINE] * 1001)),
        ("code_long_line", "\n".join([LINE] * 30 + [LINE * 26])),
        ("code_long_lines", "\n".join([LINE * 3] * 30)),
    ],
)
def test_a_file_that_breaks_a_rule_is_dropped_with_its_name(reason: str | None, text: str) -> None:
    assert reasons(Code(), [text]) == [reason]


def test_the_bounds_themselves_are_inside() -> None:
    """20 lines of 39 characters and a newline each: 20 lines, 800 characters."""
    assert reasons(Code(min_characters=800, max_lines=20), ["\n".join([LINE] * 20)[:-1] + "\n"]) == [None]


def test_a_kernel_of_this_package_stays() -> None:
    source = Path(code_rules.__file__).with_name("c4.cpp").read_text("utf-8")
    assert reasons(Code(), [source]) == [None]
