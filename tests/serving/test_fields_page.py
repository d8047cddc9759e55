"""docs/serving.md says of fields, paths and limits what the code does."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from luban.serving import protocol
from luban.serving.limits import Limits
from luban.serving.openapi import OPERATIONS
from luban.serving.refusals import HARMLESS
from tests.serving.fields_page import PAGE, page

ROOT = Path(__file__).parents[2]


def test_the_table_of_refused_fields_is_the_codes() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text, "write it again: python -m tests.serving.fields_page"


def test_every_field_path_and_limit_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    kinds = (
        protocol.CompletionRequest,
        protocol.ChatRequest,
        protocol.EmbeddingRequest,
        protocol.ScoreRequest,
    )
    fields = {name for kind in kinds for name in kind.model_fields} - {"input", "encoding_format"}
    missing = [name for name in [*fields, *HARMLESS] if f"`{name}`" not in text]
    assert not missing
    assert [one.path for one in OPERATIONS if one.path not in text] == []


def test_files_named_in_the_life_of_a_request_are_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    named = {word.strip("`().,;") for word in text.split() if word.strip("(.,;").endswith(".py`")}
    places = [ROOT / "luban" / "serving", ROOT]
    assert named
    assert [name for name in named if not any((place / name).exists() for place in places)] == []


def test_every_limit_has_a_word_of_help() -> None:
    from luban.config import field_docs

    assert {field.name for field in dataclasses.fields(Limits)} == set(field_docs(Limits))
