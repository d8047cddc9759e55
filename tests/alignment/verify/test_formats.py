"""Formats: regular expressions over whole answers, and JSON against schemas, as the reference validator judges."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luban.alignment.verify import VERIFIERS
from luban.alignment.verify.json_schema import KEYWORDS, fits
from luban.errors import DataError

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "minLength": 1}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
}
SCHEMAS: tuple[Any, ...] = (
    SCHEMA,
    {"type": ["integer", "null"]},
    {"enum": [1, "a", None, [True]]},
    {"const": 0},
    {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 2, "uniqueItems": True},
    {"type": "string", "pattern": "^a", "maxLength": 2},
    {"exclusiveMinimum": 0, "exclusiveMaximum": 2, "maximum": 1},
    {"anyOf": [{"type": "string"}, {"minimum": 3}]},
    {"allOf": [{"type": "number"}, {"minimum": 1}]},
    {"oneOf": [{"type": "number"}, {"type": "integer"}]},
    {"not": {"type": "object"}},
    {"properties": {"a": False}},
    True,
    {},
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 5)
    | st.sampled_from([0.0, 1.0, 1.5])
    | st.text("ab", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "age", "a"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(VALUES, st.sampled_from(SCHEMAS))
def test_schemas_judge_as_the_reference_does(value: Any, schema: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    assert fits(value, schema) == jsonschema.Draft202012Validator(schema).is_valid(value)


def test_every_keyword_is_compared_with_the_reference() -> None:
    assert set(KEYWORDS) == {
        name for schema in SCHEMAS if isinstance(schema, dict) for name in names_in(schema)
    }


def names_in(schema: dict[str, Any]) -> set[str]:
    inner = [*schema.get("properties", {}).values(), schema.get("items"), schema.get("not")]
    inner += [one for name in ("anyOf", "allOf", "oneOf") for one in schema.get(name, [])]
    return set(schema).union(*(names_in(one) for one in inner if isinstance(one, dict)))


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ('{"name": "Lu Ban", "age": 3}', 1),
        ('Here it is:\n```json\n{"name": "Lu Ban"}\n```', 1),
        ('{"name": ""}', 0),
        ('{"name": "Lu Ban", "trade": "carpenter"}', 0),
        ('{"name": "Lu Ban", "age": NaN}', 0),
        ("name: Lu Ban", 0),
        ("[" * 100_000, 0),
    ],
)
def test_an_answer_fits_the_row_s_schema_or_not(answer: str, score: float) -> None:
    assert VERIFIERS["json"].score({"schema": SCHEMA}, answer) == score


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"minimun": 1}, "did you mean 'minimum'"),
        ({"items": {"type": "strin"}}, "did you mean 'string'"),
        ({"anyOf": [{"$ref": "#"}]}, r"'\$ref' is not supported"),
        ("string", "a schema is an object"),
    ],
)
def test_a_schema_that_cannot_be_followed_is_refused(schema: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        VERIFIERS["json"].check({"schema": schema})


def test_a_regex_must_match_the_whole_answer() -> None:
    row = {"regex": r"<think>.+</think>\s*\d+"}
    score = VERIFIERS["regex"].score
    answers = (" <think>a\nb</think>\n42 ", "<think>a</think> 42!", "42")
    assert [score(row, answer) for answer in answers] == [1, 0, 0]


def test_a_broken_regex_is_refused() -> None:
    with pytest.raises(DataError, match="no regular expression"):
        VERIFIERS["regex"].check({"regex": "("})
    with pytest.raises(DataError, match="no 'regex'"):
        VERIFIERS["regex"].check({})
