"""What of an answer a program can check: the honest ground of preference sets that nobody had to judge.

A property gives an answer to a prompt a number; the better of two answers is the one with more of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from luban.errors import ConfigError, nearest

Property = Callable[[Sequence[Mapping[str, Any]], str], float]
"""From the messages of a prompt and an answer to it to how much of the property the answer has."""


def question(_prompt: Sequence[Mapping[str, Any]], answer: str) -> float:
    """1 for an answer that ends by asking something."""
    return float(answer.rstrip(" \"')").endswith(("?", "？")))


def shorter(_prompt: Sequence[Mapping[str, Any]], answer: str) -> float:
    """Fewer words are better."""
    return -float(len(answer.split()))


def longer(_prompt: Sequence[Mapping[str, Any]], answer: str) -> float:
    """More words are better."""
    return float(len(answer.split()))


def fresh(prompt: Sequence[Mapping[str, Any]], answer: str) -> float:
    """The share of the answer's words that neither the prompt nor the answer itself had before."""
    seen = {word for message in prompt for word in _words(str(message.get("content", "")))}
    words = _words(answer)
    new = [word for place, word in enumerate(words) if word not in seen and word not in words[:place]]
    return len(new) / max(1, len(words))


PROPERTIES: Mapping[str, Property] = {
    "question": question,
    "shorter": shorter,
    "longer": longer,
    "fresh": fresh,
}
"""By name, as `prefer` of `luban data pairs` gives it."""


def property_named(spec: str) -> Property:
    """A property by name, `regex:PATTERN` (1 where it is found in the answer), or `file.py:name`.

    The function of a file takes the prompt's messages and the answer. Raises ConfigError naming the choices.
    """
    if spec in PROPERTIES:
        return PROPERTIES[spec]
    if spec.startswith("regex:"):
        return _found(spec.removeprefix("regex:"))
    path, _, name = spec.rpartition(":")
    if path.endswith(".py"):
        from luban.alignment.judge import function_in

        return function_in(Path(path), name)
    hint = f"{', '.join(PROPERTIES)}, regex:PATTERN or file.py:name"
    what = f"unknown property '{spec}'; {nearest(spec, PROPERTIES)}"
    raise ConfigError(what, where="setting 'prefer'", hint=hint)


def _found(pattern: str) -> Property:
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"not a regular expression: {error}", where="setting 'prefer'") from None
    return lambda _prompt, answer: float(bool(wanted.search(answer)))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
