"""Names of people and places by an installed model, the slow second engine beside the rules.

A recogniser is any importable package whose `load()` returns an object with `pipe(texts)`, which yields documents
with `ents` of `start_char`, `end_char` and `label_`: spaCy's model packages are such. Nothing of spaCy is imported
here, and the model only when a recipe names it.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, cast

from luban.errors import MachineError

KIND_OF_LABEL = {"PERSON": "person", "PER": "person", "GPE": "location", "LOC": "location", "FAC": "location"}
"""OntoNotes (English, Chinese) and WikiNER (German, French) labels."""


class Entity(Protocol):
    """One name in a text, by characters."""

    start_char: int
    end_char: int
    label_: str


class Recognised(Protocol):
    """A text that the model has read."""

    ents: Sequence[Entity]


class Recogniser(Protocol):
    """A model that finds names."""

    def pipe(self, texts: Iterable[str]) -> Iterable[Recognised]: ...


@functools.cache
def load_recogniser(package: str) -> Recogniser:
    """The model of an installed package, loaded once per process. Raises MachineError if it is not installed."""
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        raise MachineError(
            f"no model package '{package}' here ({error})",
            where="pii.ner",
            hint=f"pip install the spaCy model {package} and spacy, or leave `ner` out: rules need no model",
        ) from None
    if not hasattr(module, "load"):
        raise MachineError(f"'{package}' is not a model package: it has no load()", where="pii.ner")
    return cast(Recogniser, module.load())


def find_names(texts: Sequence[str], package: str) -> Iterator[list[tuple[int, int, str]]]:
    """Per text the (start, end, kind) of people and places, in characters."""
    for text, read in zip(texts, load_recogniser(package).pipe(texts), strict=True):
        found = [(e.start_char, e.end_char, KIND_OF_LABEL.get(e.label_, "")) for e in read.ents]
        yield [span for span in found if span[2] and not set("<>") & set(text[span[0] : span[1]])]
