"""Personal data: the step beside the same rules asked at every place by plain `re`, and six patterns as users write.

Recall and precision on planted values, in real text.
"""

from __future__ import annotations

import random
import re
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from factory import corpus
from factory.measure import apart, in_turn, rates, save, table
from luban.data.document import Document
from luban.data.factory import rows
from luban.data.step import Batch
from luban.data.steps.pii.planted import GENERATORS, Planted, plant, score
from luban.data.steps.pii.rules import RULES
from luban.data.steps.pii.step import Pii

SIX = (
    r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}",
    r"(?:\+?\d{1,3}[ .-]?)?\(?\d{3}\)?[ .-]?\d{3}[ .-]?\d{4}\b",
    r"\b(?:\d{1,3}\.){3}\d{1,3}\b",
    r"\b(?:\d[ -]?){13,16}\b",
    r"\b\d{3}-\d{2}-\d{4}\b",
    r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}\b",
)
VALUES = 3
"""Planted in each document."""


def run(options: Namespace) -> None:
    planted = _planted(options.kind, options.megabytes)
    megabytes = sum(len(one.text.encode()) for one in planted) / 1e6
    works = in_turn(
        {
            "luban": lambda: apart(_luban, options.kind, options.megabytes),
            "luban's patterns by re": lambda: apart(_patterns, options.kind, options.megabytes),
            "six patterns by re": lambda: apart(_six, options.kind, options.megabytes),
        },
        options.rounds,
    )
    result = score(planted)
    found: dict[str, Any] = {
        "megabytes": megabytes,
        "speed": rates(megabytes, works, "luban"),
        "planted": [
            {
                "kind": kind,
                "planted": result.planted[kind],
                "recall": result.recall(kind),
                "precision": result.precision(kind),
            }
            for kind in GENERATORS
            if result.planted[kind] and result.marks[kind]
        ],
    }
    table(
        f"personal data, {options.kind}: {megabytes:.1f} MB with {VALUES} values a document", found["speed"]
    )
    table("found of what was planted (a true value of the text itself counts as wrong)", found["planted"])
    print(save("pii", found))


def _planted(kind: corpus.Kind, megabytes: float) -> list[Planted]:
    return [
        plant(document.text, random.Random(i), values=VALUES)
        for i, document in enumerate(corpus.sample(kind, megabytes))
    ]


def _texts(kind: corpus.Kind, megabytes: float) -> list[str]:
    return [one.text for one in _planted(kind, megabytes)]


def _luban(kind: corpus.Kind, megabytes: float) -> Callable[[], int]:
    step = Pii()
    documents = [Document(id="", text=text, source="") for text in _texts(kind, megabytes)]
    batches = list(rows.batches(documents, size=4_000_000))
    step(Batch(documents[:5]))
    return lambda: sum(outcome is not None for each in batches for outcome in step(Batch(each)))


def _patterns(kind: corpus.Kind, megabytes: float) -> Callable[[], int]:
    """What the rules cost without the scan for places where one can match; their checks left out."""
    whole = [text.encode() for text in _texts(kind, megabytes)]
    found = [rule.pattern for rule in RULES]
    return lambda: sum(sum(1 for _ in pattern.finditer(text)) for text in whole for pattern in found)


def _six(kind: corpus.Kind, megabytes: float) -> Callable[[], int]:
    texts, patterns = _texts(kind, megabytes), [re.compile(pattern) for pattern in SIX]
    return lambda: sum(sum(1 for _ in pattern.finditer(text)) for text in texts for pattern in patterns)
