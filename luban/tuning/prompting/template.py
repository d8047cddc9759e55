"""What the model reads: a text in a frame with one slot for the answer, after examples if there are any.

`{text}` stands for the text, `{second}` for the second of two, `{answer}` for the answer word. Where the answer comes
after all texts ("{text} It was {answer}.") the model says how likely each word is, and what stands behind it is shown
in examples only; where a text follows it ("A {answer} film: {text}") the model says how likely word and text are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from luban.errors import ConfigError
from luban.tuning.labelled import Labelled

TEXT, SECOND, ANSWER = "{text}", "{second}", "{answer}"


@dataclass(frozen=True)
class Template:
    """A frame for texts; raises ConfigError if it has not `{text}` and `{answer}` once, or `{second}` twice."""

    pattern: str

    def __post_init__(self) -> None:
        for slot in (TEXT, ANSWER, SECOND):
            times = self.pattern.count(slot)
            if times != 1 and (slot != SECOND or times > 1):
                what = f"a template holds {slot} once, this one {times} times: {self.pattern!r}"
                raise ConfigError(
                    what, where="setting 'template'", hint="'{text} All in all, it was {answer}.'"
                )

    @property
    def pairs(self) -> bool:
        """Whether it is about two texts."""
        return SECOND in self.pattern

    @property
    def judges_text(self) -> bool:
        """Whether a text comes after the answer, so that it is the text whose chances count too."""
        after = self.pattern.partition(ANSWER)[2]
        return TEXT in after or SECOND in after

    def filled(self, row: Labelled, word: str) -> str:
        """The whole frame, with text and answer in it."""
        before, after = self.asked(row)
        return before + word + after

    def asked(self, row: Labelled) -> tuple[str, str]:
        """What stands before the answer, and what after it."""
        before, _, after = self.pattern.partition(ANSWER)
        return _with_texts(before, row), _with_texts(after, row)

    def premise(self) -> str:
        """What stands just before the answer and is the same for all texts."""
        before = self.pattern.partition(ANSWER)[0]
        return before.rpartition(TEXT)[2].rpartition(SECOND)[2].lstrip()


@dataclass(frozen=True)
class Frame:
    """A template and the examples that stand before it, already written out."""

    template: Template
    examples: str = ""

    def pair(self, row: Labelled, word: str) -> tuple[str, str]:
        """Context and continuation to score; how their scores differ between words is a judgement on the row."""
        before, after = self.template.asked(row)
        return self.examples + before, word + (after if self.template.judges_text else "")


def written_out(template: Template, answered: Iterable[tuple[Labelled, str]], *, separator: str) -> str:
    """Rows with their answers as the examples of a `Frame`."""
    return "".join(template.filled(row, word) + separator for row, word in answered)


def _with_texts(part: str, row: Labelled) -> str:
    """`part` with the row's texts in their slots; braces in the texts mean nothing."""
    pieces = [piece.replace(SECOND, row.second or "") for piece in part.split(TEXT)]
    return row.text.join(pieces)
