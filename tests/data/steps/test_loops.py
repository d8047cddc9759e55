"""Loops inside a sentence: cut to size by hand-made examples, by a plain-Python oracle, and not in the Bible."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.data.document import Document
from luban.data.step import Batch, Drop, Edit, Outcome
from luban.data.steps.loops import Loops
from luban.fetch import bible
from tests.conftest import WEB


def judge(text: str, step: Loops | None = None) -> Outcome:
    return (step or Loops(max_share=1.0))(Batch([Document(id="1", text=text, source="test")]))[0]


def cut(text: str, step: Loops | None = None) -> str:
    outcome = judge(text, step)
    assert not isinstance(outcome, Drop)
    return text if outcome is None or outcome.text is None else outcome.text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("It was very very very very very good.", "It was very very very good."),
        ("and then and then and then and then she left.", "and then and then and then she left."),
        ("Holy, holy, holy, is Yahweh of Armies!", "Holy, holy, holy, is Yahweh of Armies!"),
        ("No, no, NO, No, no, it is not.", "No, no, NO, it is not."),
        ("a b a b a b a b a", "a b a b a b a"),
        ("他说我我我我我不知道。", "他说我我我不知道。"),
        ("我们的我们的我们的我们的我们的家", "我们的我们的我们的家"),
        ("Yes. Yes. Yes. Yes. Yes.", "Yes. Yes. Yes. Yes. Yes."),
        ("好！好！好！好！", "好！好！好！好！"),
        ("next\nnext\nnext\nnext", "next\nnext\nnext\nnext"),
        ("- - - - - - - -\n0 0 0 0 0 0", "- - - - - - - -\n0 0 0 0 0 0"),
    ],
)
def test_copies_beyond_the_third_go_and_nothing_else(before: str, after: str) -> None:
    assert cut(before) == after


def test_a_cut_is_counted() -> None:
    assert judge("so so so so so what. It was it was it was it was it was so.") == Edit(
        "so so so what. It was it was it was so.", changes={"loops": 2, "loop_chars": 20}
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("He came. It was so so so so bad. He left.", "He came. He left."),
        ('He came. "It was so so so so bad!" He left.', "He came. He left."),
        ("他来了。这是我我我我的“家！”他走了。", "他来了。他走了。"),
        ("One line.\nso so so so bad\nAnother one.", "One line.\n\nAnother one."),
    ],
)
def test_the_whole_sentence_goes_if_asked(before: str, after: str) -> None:
    assert cut(before, Loops(cut="sentence", max_share=1.0)) == after


def test_a_document_of_loops_is_dropped() -> None:
    text = "The study was " + "UNAM " * 10 + "and so on and on."
    outcome = judge(text, Loops())
    assert isinstance(outcome, Drop)
    assert outcome.reason == "looping"
    assert outcome.value == pytest.approx(35 / len(text))


def trim(words: list[str], longest: int, times: int) -> list[str]:
    """The rule in plain Python: mark each whole copy that follows `times` others, by any phrase length."""
    gone: set[int] = set()
    for length in range(1, longest + 1):
        run = 0
        for at in range(length, len(words)):
            run = run + 1 if words[at] == words[at - length] else 0
            if run >= length * times and run % length == 0:
                gone |= set(range(at - length + 1, at + 1))
    return [word for index, word in enumerate(words) if index not in gone]


@given(st.lists(st.sampled_from(["a", "b", "c"]), max_size=40), st.integers(1, 7), st.integers(1, 4))
@settings(max_examples=300, deadline=None)
def test_the_kernel_follows_the_rule_in_plain_python(words: list[str], longest: int, times: int) -> None:
    step = Loops(phrase_words=longest, times=times, max_share=1.0)
    assert cut(" ".join(words), step).split() == trim(words, longest, times)


@given(st.lists(st.text("ab é漢。.!?\n\"'", max_size=30), max_size=5))
@settings(max_examples=200, deadline=None)
def test_batches_change_nothing_and_what_is_cut_stood_in_the_text(texts: list[str]) -> None:
    step, docs = Loops(times=1, max_share=1.0), [Document(id="", text=text, source="") for text in texts]
    alone = [step(Batch([document]))[0] for document in docs]
    assert list(step(Batch(docs))) == alone
    for text, outcome in zip(texts, alone, strict=True):
        if isinstance(outcome, Edit) and outcome.text is not None:
            left = iter(text)
            assert all(character in left for character in outcome.text)


def test_real_prose_has_hardly_a_loop() -> None:
    docs = [Document(id=name, text="\n".join(verses), source="") for name, verses in bible.chapters(WEB)]
    touched = [outcome for outcome in Loops()(Batch(docs)) if outcome is not None]
    assert len(touched) <= len(docs) / 200


def test_the_step_travels() -> None:
    assert pickle.loads(pickle.dumps(Loops(times=2))) == Loops(times=2)
