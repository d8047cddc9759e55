"""docs/tuning.md says of methods and settings what the code says, and has a place for the figures."""

from __future__ import annotations

from benchmarks.tuned.methods import BEGIN, END, WAYS
from luban.peft import METHODS
from tests.tuning.methods_page import PAGE, page


def test_the_page_is_what_the_code_says_of_methods_and_settings() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text, "write it again: python -m tests.tuning.methods_page"


def test_every_method_is_measured_and_has_a_place_on_the_page() -> None:
    assert sorted(WAYS) == sorted(["all weights", *METHODS])
    text = PAGE.read_text(encoding="utf-8")
    assert text.index(BEGIN) < text.index(END)
