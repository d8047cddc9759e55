"""Answers of a model that would write noise keep to every form; forms that cannot be kept are refused by name."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.errors import PromptError
from luban.inference.constrain import Constraint, form_of
from luban.inference.generate import generate_tokens
from luban.inference.local import LocalLM
from luban.lm import Generation, Sampling
from tests import tiny

STOPS = frozenset({0, 2})


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(5)
    return tiny.llama(context=512).eval()


def noise(model: Any, constraint: Constraint | None, seed: int, **changes: Any) -> Generation:
    sampling = Sampling(**({"temperature": 1.0, "seed": seed, "max_tokens": 400} | changes))
    (made,) = generate_tokens(
        model, [[5, 6]], [sampling], tokenizer=tiny.tokenizer(), stop_ids=STOPS, constraint=constraint
    )
    return made


def test_without_a_form_the_model_writes_noise(model: Any) -> None:
    with pytest.raises(json.JSONDecodeError):
        json.loads(noise(model, None, 1, max_tokens=30).text)


leaf = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.builds(
        lambda low, span: {"type": "integer", "minimum": low, "maximum": low + span},
        st.integers(-99, 99),
        st.integers(0, 50),
    ),
    st.builds(lambda most: {"type": "string", "maxLength": most}, st.integers(0, 6)),
    st.builds(
        lambda texts: {"enum": texts}, st.lists(st.text(max_size=5), min_size=1, max_size=4, unique=True)
    ),
    st.sampled_from([{"type": "string", "pattern": "^[a-f]{2,4}$"}, {"type": "string", "format": "ipv4"}]),
)


def _object(properties: dict[str, Any], needed: bool) -> dict[str, Any]:
    required = list(properties) if needed else []
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


schema = st.recursive(
    leaf,
    lambda inner: st.one_of(
        st.builds(_object, st.dictionaries(st.text(max_size=4), inner, max_size=3), st.booleans()),
        st.builds(
            lambda items, most: {"type": "array", "items": items, "maxItems": most}, inner, st.integers(0, 3)
        ),
        st.builds(lambda some: {"anyOf": some}, st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=5,
)


@settings(max_examples=20, deadline=None)
@given(schema=schema, seed=st.integers(0, 10**6))
def test_every_answer_keeps_to_its_schema(model: Any, schema: dict[str, Any], seed: int) -> None:
    made = noise(model, Constraint.json_schema(schema), seed)
    assert made.finish_reason == "stop"
    jsonschema.validate(json.loads(made.text), schema, format_checker=jsonschema.FormatChecker())


@settings(max_examples=40, deadline=None)
@given(
    pattern=st.sampled_from(
        [
            r"[a-z]{3,5}-[0-9]{2}",
            r"(foo|ba[rz])+x",
            r"[A-Z_]\s[0-9]",
            r"[^a-z]{4}",
            r"(?i)yes|no",
            r"a|ab|abc",
            r".{3}",
        ]
    ),
    seed=st.integers(0, 10**6),
)
def test_every_answer_matches_its_pattern(model: Any, pattern: str, seed: int) -> None:
    made = noise(model, Constraint(kind="regex", value=pattern), seed, max_tokens=500)
    text = made.text if made.finish_reason == "stop" else ""
    assert made.finish_reason == "length" or re.fullmatch(pattern, text), text


@settings(max_examples=15, deadline=None)
@given(
    texts=st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8), min_size=1, max_size=4
    ),
    seed=st.integers(0, 10**6),
)
def test_every_answer_is_one_of_the_choices(model: Any, texts: list[str], seed: int) -> None:
    made = noise(model, Constraint.choice(texts), seed)
    assert made.text in texts


def test_all_choices_are_drawn(model: Any) -> None:
    drawn = {noise(model, Constraint.choice(["yes", "no"]), seed, temperature=9.0).text for seed in range(12)}
    assert drawn == {"yes", "no"}


def test_any_json_object_is_an_object_within_bounded_blanks(model: Any) -> None:
    for seed in range(3):
        blank = tiny.tokenizer().encode(" ") + tiny.tokenizer().encode("\n")
        loved = dict.fromkeys(blank, 3.0) | {tiny.tokenizer().encode("}")[0]: 3.0}
        made = noise(model, Constraint(kind="json_object"), seed, logit_bias=loved)
        assert made.finish_reason == "length" or isinstance(json.loads(made.text), dict)
        assert not re.search(r"[\n ]{19}", made.text.partition('"')[0])


def test_a_grammar_is_kept_to(model: Any) -> None:
    grammar = 'start: sum\nsum: number ("+" number){1,3}\nnumber: /[0-9]{1,3}/'
    for seed in range(5):
        made = noise(model, Constraint(kind="grammar", value=grammar), seed)
        assert re.fullmatch(r"\d{1,3}(\+\d{1,3}){1,3}", made.text), made.text


def test_a_greedy_answer_is_the_likeliest_way_through_the_form(model: Any) -> None:
    texts = ["quick", "lazy", "tools"]
    with torch.inference_mode():
        logits = model(torch.tensor([[5, 6]]))[0, -1]
    first = {text: tiny.tokenizer().encode(text)[0] for text in texts}
    single = [logits[tiny.tokenizer().encode(text[0])[0]] for text in texts]
    assert len(single) == 3
    made = noise(model, Constraint.choice(texts), 0, temperature=0)
    allowed = form_of(Constraint.choice(texts), tiny.tokenizer(), vocab=384, stop_ids=STOPS).allowed
    assert set(first.values()) <= set(allowed.nonzero()[:, 0].tolist())
    assert made.tokens[0] == int(logits.masked_fill(~allowed, float("-inf")).argmax())


def test_an_answer_ends_by_itself_where_its_form_is_complete(model: Any) -> None:
    made = noise(model, Constraint(kind="regex", value="[ab]{5}"), 3, ignore_eos=True)
    assert (len(made.text), made.finish_reason) == (5, "stop")
    assert not set(made.tokens) & STOPS


def test_where_a_form_may_go_on_a_stop_id_ends_it_and_nothing_else(model: Any) -> None:
    endless = Constraint(kind="regex", value="[ab]+")
    assert noise(model, endless, 1, ignore_eos=True, max_tokens=25).finish_reason == "length"
    made = noise(model, endless, 1, logit_bias={2: 100.0})
    assert (made.tokens[-1], made.finish_reason, len(made.tokens)) == (2, "stop", 2)
    assert re.fullmatch("[ab]+", made.text)


def test_rules_yield_to_the_form(model: Any) -> None:
    rules = {"allowed_ids": (100,), "no_repeat_ngram": 1, "bad_words": ("a",), "min_tokens": 50}
    assert noise(model, Constraint(kind="regex", value="aaa"), 1, **rules).text == "aaa"


def test_a_copied_form_goes_its_own_way() -> None:
    tokenizer = tiny.tokenizer()
    form = form_of(Constraint.choice(["ax", "by"]), tokenizer, vocab=400, stop_ids=())
    other = form.copy()
    form.take(tokenizer.encode("a")[0])
    other.take(tokenizer.encode("b")[0])
    assert form.allowed.nonzero()[:, 0].tolist() == tokenizer.encode("x")
    assert other.allowed.nonzero()[:, 0].tolist() == tokenizer.encode("y")
    assert len(form.allowed) == 400


def test_the_local_model_keeps_to_a_form_in_batches_and_not_in_beams(model: Any) -> None:
    lm = LocalLM(model, tiny.tokenizer(), name="tiny")
    choice = Constraint.choice(["yes", "no"])
    made = lm.generate(["Is it?", "The quick brown fox?"], Sampling(seed=1), constraint=choice)
    assert {one.text for one in made} <= {"yes", "no"}
    with pytest.raises(PromptError, match="beam search does not keep to a form"):
        lm.generate(["Is it?"], Sampling(beams=2), constraint=choice)


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (Constraint(kind="regex", value="(a"), "regex: unclosed group"),
        (Constraint(kind="regex", value=r"(a)\1"), "backreferences are not supported"),
        (Constraint(kind="regex", value=""), "only the empty text"),
        (Constraint.json_schema("{"), "json_schema: not valid JSON"),
        (
            Constraint.json_schema({"properties": {"a": {"requird": []}}}),
            r"properties.a: unknown keyword 'requird'",
        ),
        (
            Constraint.json_schema({"anyOf": [{"minimun": 1}]}),
            "anyOf.0: unknown keyword 'minimun'; did you mean",
        ),
        (Constraint.json_schema({"type": "array", "uniqueItems": True}), "uniqueItems"),
        (Constraint.json_schema({"type": "strin"}), "Invalid type: strin"),
        (Constraint.json_schema({"enum": []}), "Unsatisfiable schema"),
        (Constraint.json_schema({"$ref": "http://x/y"}), "http://x/y"),
        (Constraint.choice([]), "a choice is a list of texts"),
        (Constraint.choice(["a", ""]), "a choice is a list of texts"),
        (Constraint(kind="grammar", value="start: X"), 'unknown name: "X"'),
        (Constraint(kind="regx", value="a"), "did you mean 'regex'"),  # pyright: ignore[reportArgumentType] - on purpose
        (Constraint(kind="regex", value="a" * 200_001), "200001 characters"),
    ],
)
def test_a_form_that_cannot_be_kept_is_refused_by_name(constraint: Constraint, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        form_of(constraint, tiny.tokenizer(), vocab=384, stop_ids=STOPS)
