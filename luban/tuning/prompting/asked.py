"""The rows of a run of `prompt`, its templates and its labels: read and checked before a model is opened."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from luban.data.rejected import raise_rejected
from luban.errors import ConfigError
from luban.tuning.labelled import Labelled, check_labels, label_set, read_labelled
from luban.tuning.prompting.template import Template
from luban.tuning.prompting.verbaliser import check_words

if TYPE_CHECKING:
    from luban.tuning.prompt import Config


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked about what. `words` are the given ones by label, in the order of the answers."""

    templates: Sequence[Template]
    rows: Sequence[Labelled]
    known: Sequence[Labelled]
    """Labelled rows to learn the question from."""
    words: Mapping[str, tuple[str, ...]]
    cut: int
    """Texts that were longer than `max_characters`."""


def read_asked(config: Config) -> Asked:
    """The rows and what goes with them.

    Raises ConfigError where template, words and columns do not fit, DataError for a row that is none or has a label
    without words.
    """
    templates = [Template(pattern.replace("\\n", "\n")) for pattern in config.template]
    _check_texts(templates, config.columns.second)
    rows = list(read_labelled(config.data, config.columns, reject=raise_rejected, known=False))
    known = list(read_labelled(config.train, config.columns, reject=raise_rejected))
    if config.max_rows is not None:
        order = np.random.default_rng(config.seed).permutation(len(rows))[: config.max_rows]
        rows = [rows[place] for place in sorted(order)]
    words = _words(config, [*known, *rows])
    return Asked(
        templates=templates,
        rows=[_shortened(row, config.max_characters) for row in rows],
        known=[_shortened(row, config.max_characters) for row in known],
        words=words,
        cut=_count_longer((*rows, *known), config.max_characters),
    )


def _words(config: Config, rows: Sequence[Labelled]) -> dict[str, tuple[str, ...]]:
    """Answer words by label: the given ones, else each label's own name. Labels stand in the order of `words`."""
    told = {label: tuple(words) for label, words in config.words.items()}
    if not any(row.labels for row in rows) and not told:
        raise ConfigError("no row has a label, so there are none to choose from", where="setting 'words'")
    labels = label_set(rows, tuple(told))
    words = {label: told.get(label, (label,)) for label in labels}
    if not config.search:
        check_words(words)
    for row in rows:
        check_labels(row, labels)
    return words


def _check_texts(templates: Sequence[Template], second: str) -> None:
    for template in templates:
        if template.pairs != bool(second):
            what = (
                f"{template.pattern!r} has {'two texts' if template.pairs else 'one text'}, the rows do not"
            )
            hint = "columns.second=KEY goes with {second} in the template"
            raise ConfigError(what, where="setting 'template'", hint=hint)


def _shortened(row: Labelled, most: int) -> Labelled:
    return dataclasses.replace(row, text=row.text[:most], second=row.second and row.second[:most])


def _count_longer(rows: Sequence[Labelled], most: int) -> int:
    return sum(max(len(row.text), len(row.second or "")) > most for row in rows)
