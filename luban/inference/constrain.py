"""What an answer's text must be, kept token by token: whatever leads away from it gets no probability.

A `Constraint` is what a request says; `form_of` compiles it, with `llguidance`, for a vocabulary; the `Form` then tells
before each token which ones are `allowed`, and takes the one that was drawn. Where the form is complete, the tokens
that end an answer are allowed; where nothing but they are, the answer ends by itself.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from luban.errors import MachineError, PromptError, nearest

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from torch import Tensor

    from luban.tokenizers.base import Tokenizer

Kind = Literal["regex", "json_schema", "choice", "json_object", "grammar"]
KINDS: tuple[Kind, ...] = ("regex", "json_schema", "choice", "json_object", "grammar")
BLANKS = r" |\n {0,16}"
"""What may stand between two signs of JSON, or nothing. Without a bound small models write blanks for ever."""
MOST_CHARACTERS = 200_000
"""Longest constraint that is looked at."""
SCHEMAS = ("items", "additionalProperties", "additionalItems", "contains", "not", "if", "then", "else")
SCHEMA_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
SCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
KEYWORDS = frozenset(
    re.findall(
        r"\S+",
        """
    $anchor $comment $defs $dynamicAnchor $dynamicRef $id $ref $schema additionalItems additionalProperties allOf anyOf
    const contains contentEncoding contentMediaType default definitions dependentRequired dependentSchemas deprecated
    description else enum examples exclusiveMaximum exclusiveMinimum format if items maxContains maxItems maxLength
    maxProperties maximum minContains minItems minLength minProperties minimum multipleOf not oneOf pattern
    patternProperties prefixItems properties propertyNames readOnly required then title type unevaluatedItems
    unevaluatedProperties uniqueItems writeOnly
    """,
    )
)
"""All of JSON Schema (draft 2020-12, and `definitions`). What cannot be kept among them, llguidance names."""


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """The form of an answer."""

    kind: Kind
    value: str = ""
    """A regular expression that the whole answer matches; a JSON schema; a JSON list of texts; nothing (any JSON
    object); or a grammar in llguidance's Lark dialect."""

    @staticmethod
    def json_schema(schema: str | Mapping[str, Any]) -> Constraint:
        """JSON that keeps to `schema`."""
        return Constraint(kind="json_schema", value=schema if isinstance(schema, str) else json.dumps(schema))

    @staticmethod
    def choice(texts: Sequence[str]) -> Constraint:
        """One of `texts`."""
        return Constraint(kind="choice", value=json.dumps(list(texts)))


class Form:
    """A constraint on one answer as far as it is written."""

    def __init__(self, matcher: LLMatcher, *, vocab: int, mark: int, stop_ids: Collection[int]) -> None:
        """`mark` is the token by which `matcher` says that it is complete."""
        self._matcher, self._vocab, self._mark, self._stop_ids = matcher, vocab, mark, stop_ids
        self.allowed: Tensor
        """[vocab], whether a token may come next."""
        self.complete = False
        """Whether the text so far is all that was asked for."""
        self.over = False
        """Whether no token can come; without being complete where the vocabulary cannot spell what must follow."""
        self._look()

    def copy(self) -> Form:
        """The same, to be written on by another answer."""
        return Form(self._matcher.deep_copy(), vocab=self._vocab, mark=self._mark, stop_ids=self._stop_ids)

    def take(self, token: int) -> None:
        """Go on behind `token`, one of those allowed that does not end the answer."""
        self._matcher.consume_token(token)
        self._look()

    def _look(self) -> None:
        import numpy as np
        import torch

        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        told = torch.from_numpy(np.unpackbits(bits, bitorder="little")).bool()
        failed = self._matcher.is_error()  # a limit on the work for one token was met
        self.complete = not failed and bool(told[self._mark])
        told[self._mark :] = False
        self.allowed = torch.zeros(self._vocab, dtype=torch.bool)
        known = min(self._vocab, self._mark)
        self.allowed[:known] = told[:known] & (not failed)
        self.over = not bool(self.allowed.any())
        if self.complete and self._stop_ids:
            self.allowed[list(self._stop_ids)] = True


def form_of(constraint: Constraint, tokenizer: Tokenizer, *, vocab: int, stop_ids: Collection[int]) -> Form:
    """The form of an answer that has not begun.

    Raises PromptError for a constraint that is malformed, cannot be kept or allows nothing, and MachineError without
    the library.
    """
    matcher, mark = _compiled(constraint, tokenizer)
    form = Form(matcher.deep_copy(), vocab=vocab, mark=mark, stop_ids=stop_ids)
    if form.over:
        what = (
            "it allows only the empty text" if form.complete else "the vocabulary cannot spell its beginning"
        )
        raise PromptError(what, where=constraint.kind)
    return form


@functools.lru_cache(maxsize=64)
def _compiled(constraint: Constraint, tokenizer: Tokenizer) -> tuple[LLMatcher, int]:
    """A matcher at its beginning, to be copied, and its mark."""
    grammar = grammar_of(constraint)
    from llguidance import LLMatcher

    known, mark = _vocabulary(tokenizer)
    matcher = LLMatcher(known, grammar, log_level=0)
    if matcher.is_error():
        raise PromptError(_reason(matcher.get_error()), where=constraint.kind, hint=_advice(constraint))
    return matcher, mark


def grammar_of(constraint: Constraint) -> str:
    """The constraint in llguidance's own form. Raises PromptError for one that is malformed."""
    try:
        from llguidance import LLMatcher
    except ImportError:
        hint = "pip install 'luban[serve]'"
        raise MachineError("constrained answers need the library llguidance", hint=hint) from None
    kind, value = constraint.kind, constraint.value
    if kind not in KINDS:
        raise PromptError(f"unknown kind of constraint '{kind}'; {nearest(kind, KINDS)}", where="constraint")
    if len(value) > MOST_CHARACTERS:
        raise PromptError(f"{len(value)} characters are more than {MOST_CHARACTERS}", where=kind)
    if kind == "regex":
        return LLMatcher.grammar_from_regex(value)
    if kind == "grammar":
        return LLMatcher.grammar_from_lark(value)
    if kind == "choice":
        return LLMatcher.grammar_from_regex("|".join(map(_literal, _texts(value))))
    schema = '{"type": "object"}' if kind == "json_object" else value
    check_schema(_parsed(schema, kind), where=kind)
    return LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_pattern": BLANKS})


def check_schema(schema: Any, *, where: str) -> None:
    """Raise PromptError for a keyword that JSON Schema does not have, which would else be passed over."""
    if not isinstance(schema, dict):
        return
    for keyword in schema:
        if keyword not in KEYWORDS and not keyword.startswith("x-"):
            raise PromptError(f"unknown keyword '{keyword}'; {nearest(keyword, KEYWORDS)}", where=where)
    for path, inner in _schemas_in(schema):
        check_schema(inner, where=f"{where}.{path}")


def _schemas_in(schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for keyword in SCHEMAS:
        yield keyword, schema.get(keyword)
    for keyword in SCHEMA_LISTS:
        among = schema.get(keyword)
        yield from ((f"{keyword}.{n}", one) for n, one in enumerate(among if isinstance(among, list) else []))
    for keyword in SCHEMA_MAPS:
        named = schema.get(keyword)
        yield from (
            (f"{keyword}.{name}", one) for name, one in (named if isinstance(named, dict) else {}).items()
        )


def _texts(value: str) -> list[str]:
    """The texts to choose from."""
    texts = _parsed(value, "choice")
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
        raise PromptError(f"a choice is a list of texts that are not empty, not {value[:60]}", where="choice")
    return texts


def _literal(text: str) -> str:
    """`text` as a regular expression."""
    plain = (sign.isalnum() for sign in text)
    return "".join(
        sign if known else rf"\x{{{ord(sign):X}}}" for sign, known in zip(text, plain, strict=True)
    )


def _parsed(value: str, kind: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise PromptError(f"not valid JSON: {error.msg} at column {error.colno}", where=kind) from None


def _reason(told: str) -> str:
    """The one line of the library's message that says what is wrong."""
    lines = [line for line in told.splitlines() if line.startswith("error: ")] or told.strip().splitlines()
    return lines[0].removeprefix("error: ").strip()


def _advice(constraint: Constraint) -> str | None:
    if constraint.kind == "regex":
        return "a pattern without looking around and without references back"
    return "leave it out, or say it with other keywords" if constraint.kind == "json_schema" else None


@functools.lru_cache(maxsize=4)
def _vocabulary(tokenizer: Tokenizer) -> tuple[LLTokenizer, int]:
    """What llguidance has to know of a vocabulary, and a token of its own behind the last one: the mark.

    The model's own end tokens would not do: there are several, or none.
    """
    from llguidance import LLTokenizer

    from luban.tokenizers.files import FileTokenizer

    if not isinstance(tokenizer, FileTokenizer):
        raise PromptError("only a tokenizer out of a tokenizer.json can keep to a form", where="constraint")
    layout, mark = json.loads(tokenizer.to_json()), tokenizer.vocab_size
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    layout["added_tokens"].append(
        {"id": mark, "content": "<|the form is complete|>", "special": True} | flags
    )
    return LLTokenizer(json.dumps(layout), eos_token=mark), mark
