"""A recipe: named stages of named steps, from a preset or a YAML file, checked before anything runs.

    name: example
    stages:
      - name: text
        steps: [normalise, {length: {min_chars: 200}}]
      - name: fuzzy
        steps: [{minhash: {threshold: 0.8}}]

A step's settings are its dataclass fields; `{chinese: {}, only: [zh]}` leaves other languages alone (a `language`
step comes before). A step that needs the whole corpus (duplicates) begins a stage.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luban import __version__
from luban.config import build, canonical_json, read_file, to_dict
from luban.data.factory.catalogue import STEPS
from luban.data.factory.only import Only
from luban.data.step import CorpusStep, Step
from luban.errors import ConfigError, nearest
from luban.folder import fingerprint

PRESETS = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Stage:
    """Documents read once and written once: at most one corpus step, first, then steps for single documents."""

    name: str
    corpus: tuple[str, CorpusStep] | None
    steps: tuple[tuple[str, Step], ...]

    @property
    def all_steps(self) -> list[tuple[str, Any]]:
        return [*([self.corpus] if self.corpus else []), *self.steps]

    def settings(self) -> dict[str, Any]:
        """Every setting of every step, by step."""
        return {name: value for step in self.all_steps for name, value in _plain(*step).items()}

    def key(self, before: str) -> str:
        """Changes when anything does that this stage's result depends on: settings, files they name, code."""
        facts = [before, __version__, self.name, *(_identity(name, step) for name, step in self.all_steps)]
        return hashlib.sha256(canonical_json(facts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Recipe:
    """What is done to documents, in order."""

    name: str
    about: str
    stages: tuple[Stage, ...]

    def key(self, inputs: str) -> str:
        """The last stage's key: whatever changes the result changes it."""
        return functools.reduce(lambda before, stage: stage.key(before), self.stages, inputs)

    def to_dict(self) -> dict[str, Any]:
        """Plain values with every setting written out; a YAML file of them is the same recipe."""
        stages = [
            {"name": stage.name, "steps": [_plain(name, step) for name, step in stage.all_steps]}
            for stage in self.stages
        ]
        return {"name": self.name, "about": self.about, "stages": stages}


Changes = Mapping[str, Mapping[str, Any]]
"""Settings by step."""


def load_recipe(name: str, changes: Changes | None = None) -> Recipe:
    """The preset `name`, or the recipe in the YAML file of that name, with `changes` in its steps' settings.

    Raises ConfigError for an unknown name, step or setting, a wrong value, and a corpus step that is not first.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = PRESETS / f"{name}.yaml"
        if not path.is_file():
            hint = f"{', '.join(presets())}, or the path of a .yaml file"
            raise ConfigError(
                f"unknown recipe '{name}'; {nearest(name, presets())}", where="recipe", hint=hint
            )
    return _parse(read_file(path), path, changes or {})


def presets() -> list[str]:
    """The recipes that come with Luban."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def _parse(tree: Mapping[str, Any], path: Path, changes: Changes) -> Recipe:
    listed = tree.get("stages")
    if not isinstance(listed, list) or not listed:
        raise ConfigError("a recipe has `stages`, a list of {name, steps}", where=path)
    unused = set(changes)
    stages = []
    for number, entry in enumerate(listed):
        where = f"{path.name}: stages[{number}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("steps"), list) or "name" not in entry:
            raise ConfigError(f"a stage is {{name, steps: [...]}}, not {entry!r:.60}", where=where)
        steps = [_step(item, where, changes, unused) for item in entry["steps"]]
        stages.append(_stage(str(entry["name"]), steps, where))
    if stages[0].corpus:
        early = stages[0].corpus[0]
        raise ConfigError(
            f"'{early}' needs documents that are read; the first stage has other steps", where=path
        )
    if unused:
        raise ConfigError(f"the recipe has no step '{sorted(unused)[0]}' to change", where=path.name)
    return Recipe(str(tree.get("name", path.stem)), str(tree.get("about", "")), tuple(stages))


def _step(item: Any, where: str, changes: Changes, unused: set[str]) -> tuple[str, Any]:
    """The step that `name`, `{name: settings}` or `{name: settings, only: languages}` stands for."""
    entry = dict(item) if isinstance(item, dict) else {item: None}
    only = entry.pop("only", None)
    name, settings = next(iter(entry.items())) if len(entry) == 1 else (None, None)
    if (
        not isinstance(name, str)
        or not isinstance(settings, dict | None)
        or not isinstance(only, list | None)
    ):
        raise ConfigError(f"a step is `name` or `{{name: {{settings}}}}`, not {item!r:.60}", where=where)
    if name not in STEPS:
        raise ConfigError(f"unknown step '{name}'; {nearest(name, STEPS)}", where=where)
    unused.discard(name)
    step = build(STEPS[name], {**(settings or {}), **changes.get(name, {})}, where=f"{where}.{name}")
    if only is None:
        return name, step
    if hasattr(step, "resolve"):
        raise ConfigError(f"'{name}' needs the whole corpus, so it cannot have `only`", where=where)
    return name, Only(step, tuple(map(str, only)))


def _stage(name: str, steps: list[tuple[str, Any]], where: str) -> Stage:
    corpus = [index for index, (_, step) in enumerate(steps) if hasattr(step, "resolve")]
    if corpus not in ([], [0]):
        late = steps[corpus[-1]][0]
        raise ConfigError(f"'{late}' needs the whole corpus, so it begins a stage of its own", where=where)
    return Stage(name, steps[0] if corpus else None, tuple(steps[len(corpus) :]))


def _plain(name: str, step: Any) -> dict[str, Any]:
    """What a recipe's file says for the step."""
    if isinstance(step, Only):
        return {name: to_dict(step.step), "only": list(step.languages)}
    return {name: to_dict(step)}


def _identity(name: str, step: Any) -> list[Any]:
    """Settings, the content of files they name, and the source file of the step."""
    inner = step.step if isinstance(step, Only) else step
    prints = [fingerprint(path) for value in vars(inner).values() for path in _paths(value)]
    source = inspect.getsourcefile(type(inner))
    return [_plain(name, step), prints, fingerprint(source) if source else ""]


def _paths(value: Any) -> list[Path]:
    if dataclasses.is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        value = tuple(value.values())
    members = value if isinstance(value, tuple | list) else [value]
    return [member for member in members if isinstance(member, Path)]
