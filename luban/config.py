"""Typed settings from files and the command line, on one strict path.

A config is a frozen, keyword-only dataclass; each field is followed by a docstring that becomes its `--help`
line. Values come from defaults, then from `--config FILE.yaml`, then from overrides (`a.b=1`, `--a.b 1`).
Unknown names fail with their path and the nearest known one; types and ranges are checked by pydantic
(`Annotated[int, Ge(1)]`). Below a field of free names (a dict) dots descend too. A config may name one field that
bare words set: `POSITIONAL: ClassVar[str] = "data"`.
No torch here: `luban STAGE --help` must answer at once.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import json
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import TypeAdapter, ValidationError

from luban.errors import ConfigError, LubanError, nearest

T = TypeVar("T")
Tree = dict[str, Any]


def load(cls: type[T], arguments: Sequence[str], *, where: str) -> T:
    """Build a `cls` from command-line words.

    `--config FILE` may be repeated, later files win; `key=value`, `--key value`, `--key=value` and a bare
    `--flag` (true) set one field, dots descend. A list field takes all words up to the next setting,
    and given again, more of them.
    Bare words set the field that `cls.POSITIONAL` names, if it names one.
    Raises ConfigError that names the setting, its path and the choices. `where` names the stage in messages.
    """
    tree: Tree = {}
    lists: dict[str, list[Any]] = {}
    for key, words in _parse(cls, arguments, where):
        if key == "config":
            tree = _merge(tree, read_file(words))
            continue
        value = _parse_value(cls, key, words, where)
        if isinstance(value, list):
            value = lists[key] = [*lists.get(key, []), *value]
        tree = _merge(tree, _nest(key, value))
    return build(cls, tree, where=where)


def build(cls: type[T], tree: Mapping[str, Any], *, where: str) -> T:
    """Build a `cls` from nested plain values; raises ConfigError on unknown names, types, ranges."""
    reject_unknown(cls, tree, where=where)
    try:
        return _adapter(cls).validate_python(tree)
    except ValidationError as error:
        first = error.errors()[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, LubanError):  # a config's own __post_init__ said what is wrong
            raise type(cause)(cause.what, where=cause.where or where, hint=cause.hint) from None
        path = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            raise ConfigError(f"setting '{path}' is required", where=where, hint=f"--{path} VALUE") from None
        raise ConfigError(f"setting '{path}' is {first['input']!r}: {first['msg']}", where=where) from None


def to_dict(config: Any) -> Tree:
    """The config as nested plain JSON values; `build(type(config), to_dict(config))` is its inverse."""
    return cast(Tree, _adapter(type(config)).dump_python(config, mode="json"))


def read_file(path: str | Path) -> Tree:
    """The mapping in a YAML or JSON file; raises ConfigError if missing, malformed or not a mapping."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError("no such config file", where=path)
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"not readable as YAML: {error}", where=path) from None
    if not isinstance(tree, dict):
        raise ConfigError("a config file holds `name: value` lines", where=path)
    return tree


def leaves(cls: type, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field[Any], str]]:
    """Each settable name with its field and docstring, nested ones dotted: `optimizer.learning_rate`."""
    docs = field_docs(cls)
    hints = _hints(cls)
    for field in dataclasses.fields(cls):
        inner = _dataclass_in(hints[field.name])
        if inner is not None:
            yield from leaves(inner, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", field, docs.get(field.name, "")


def help_text(cls: type, *, stage: str) -> str:
    """The `--help` page of a stage, made from its config's own docs."""
    usage = f"usage: luban {stage} {_positional_usage(cls)}[--config FILE.yaml] [key=value | --key value]..."
    lines = [usage, ""]
    lines += [inspect.getdoc(cls) or "", "", "settings:"]
    for name, field, doc in leaves(cls):
        lines.append(f"  --{name.replace('_', '-')} {_describe(cls, name)}{_default(field)}")
        lines += textwrap.wrap(doc, 100, initial_indent="        ", subsequent_indent="        ")
    return "\n".join(lines)


@functools.cache
def field_docs(cls: type) -> dict[str, str]:
    """The docstring under each field of a dataclass, read from its source; bases included."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        body = cast(ast.ClassDef, ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]).body
        for field, doc in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(doc, ast.Expr):
                docs[ast.unparse(field.target)] = " ".join(str(ast.literal_eval(doc.value)).split())
    return docs


def reject_unknown(cls: type, tree: Mapping[str, Any], *, where: str, prefix: str = "") -> None:
    """Raise ConfigError for the first key that `cls` does not have, with the nearest it has."""
    hints = _hints(cls)
    for key, value in tree.items():
        if key not in hints:
            raise _unknown(cls, f"{prefix}{key}", where, prefix)
        inner = _dataclass_in(hints[key])
        if inner is not None and isinstance(value, Mapping):
            reject_unknown(inner, value, where=where, prefix=f"{prefix}{key}.")


def _unknown(cls: type, path: str, where: str, prefix: str = "") -> ConfigError:
    names = [name for name, _, _ in leaves(cls, prefix)]
    leaf = path.rpartition(".")[2]
    same_leaf = [name for name in names if name.rpartition(".")[2] == leaf]
    advice = f"did you mean '{same_leaf[0]}'?" if same_leaf else nearest(path, names)
    return ConfigError(f"unknown setting '{path}'; {advice}", where=where)


def _parse(cls: type, arguments: Sequence[str], where: str) -> Iterator[tuple[str, Any]]:
    """Pairs of dotted key and its words: a string, or a list of them for a list field."""
    words = list(arguments)
    positional = False
    while words:
        word = words.pop(0)
        key, equals, value = word.removeprefix("--").partition("=")
        key = key.replace("-", "_")
        if not _is_setting(word):
            yield _positional(cls, word, words, where, again=positional)
            positional = True
        elif equals:
            yield key, value
        else:
            yield key, _words_of(cls, key, words, where)


def _words_of(cls: type, key: str, words: list[str], where: str) -> Any:
    """Take from `words` what belongs to `--key`: one word, or all up to the next setting for a list."""
    kind = None if key == "config" else _type_at(cls, key, where)
    taken = []
    while words and not _is_setting(words[0]) and (not taken or _is_list(kind)):
        taken.append(words.pop(0))
    if not taken and _strip(kind) is not bool:
        raise ConfigError(f"--{key} needs a value", where=where)
    return taken if _is_list(kind) else (taken[0] if taken else "true")


def _is_setting(word: str) -> bool:
    """Whether `word` begins the next setting: `--key` or `key=value` (write a path like that as ./a=b)."""
    key, equals, _ = word.partition("=")
    name = key.replace("-", "_").replace(".", "")
    return word.startswith("--") or (bool(equals) and name.isidentifier())


def _positional(cls: type, word: str, words: list[str], where: str, *, again: bool) -> tuple[str, Any]:
    """The field that `word`, neither option nor `key=value`, sets, and all the words that go there."""
    name = getattr(cls, "POSITIONAL", None)
    if name is None:
        raise ConfigError(f"cannot read '{word}'", where=where, hint="write key=value or --key value")
    if again:
        raise ConfigError(f"cannot read '{word}': '{name}' is already given", where=where)
    if not _is_list(_type_at(cls, name, where)):
        return name, word
    bare = list(itertools.takewhile(lambda item: not _is_setting(item), words))
    del words[: len(bare)]
    return name, [word, *bare]


def _positional_usage(cls: type) -> str:
    name: str | None = getattr(cls, "POSITIONAL", None)
    if name is None:
        return ""
    shown = name.upper() + ("..." if _is_list(_type_at(cls, name, "help")) else "")
    required = {field.name: _default(field) for field in dataclasses.fields(cast(Any, cls))}[name]
    return f"{shown} " if "required" in required else f"[{shown}] "


def _parse_value(cls: type, key: str, words: Any, where: str) -> Any:
    kind = _type_at(cls, key, where)
    if _is_list(kind):
        if isinstance(words, str):
            parsed = _plain_value(words)
            return parsed if isinstance(parsed, list) else [words]
        return words
    if words in ("none", "null", "None") and type(None) in typing.get_args(kind):
        return None
    if _strip(kind) in (str, Path):
        return words
    return _plain_value(words)


def _plain_value(words: str) -> Any:
    """What the words say as YAML, or the words themselves where they are none."""
    try:
        return yaml.safe_load(words)
    except yaml.YAMLError:
        return words


def _type_at(cls: type, key: str, where: str) -> Any:
    kind: Any = cls
    for part in key.split("."):
        if typing.get_origin(kind) in (dict, Mapping):
            kind = typing.get_args(kind)[1]
            continue
        inner = _dataclass_in(kind)
        hints = _hints(inner) if inner else {}
        if part not in hints:
            raise _unknown(cls, key, where)
        kind = hints[part]
        while typing.get_origin(kind) is typing.Annotated:
            kind = typing.get_args(kind)[0]
    return kind


def _hints(cls: type) -> dict[str, Any]:
    """The types of the fields, class variables left out."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _strip(kind: Any) -> Any:
    """`X` out of `Annotated[X, ...]` and `X | None`."""
    if typing.get_origin(kind) is typing.Annotated:
        return _strip(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        members = [member for member in typing.get_args(kind) if member is not type(None)]
        return _strip(members[0]) if len(members) == 1 else kind
    return kind


def _is_list(kind: Any) -> bool:
    return typing.get_origin(_strip(kind)) in (tuple, list)


def _dataclass_in(kind: Any) -> type | None:
    kind = _strip(kind)
    return kind if dataclasses.is_dataclass(kind) and isinstance(kind, type) else None


def _describe(cls: type, name: str) -> str:
    kind = _strip(_type_at(cls, name, "help"))
    if typing.get_origin(kind) is typing.Literal:
        return "|".join(str(choice) for choice in typing.get_args(kind))
    if _is_list(kind):
        return f"{_describe_plain(typing.get_args(kind)[0])}..."
    return _describe_plain(kind)


def _describe_plain(kind: Any) -> str:
    return getattr(_strip(kind), "__name__", str(kind)).upper().replace("STR", "TEXT")


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
        return "  (required)"
    value = field.default if field.default is not dataclasses.MISSING else None
    shown = str(value).replace("\n", r"\n")
    return "" if value in (None, "", ()) else f"  [{shown}]"


def _nest(key: str, value: Any) -> Tree:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _merge(old: Tree, new: Tree) -> Tree:
    merged = dict(old)
    for key, value in new.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


@functools.cache
def _adapter(cls: type) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def canonical_json(value: Any) -> str:
    """One text per value, for hashes: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
