"""Probes: where they may come from, how often they stand in the training text, and what is counted of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luban.ablate.memorisation import Probe, choose, cut, plant, recall, tabulate
from luban.data.document import Document
from luban.errors import DataError
from luban.lm import Conversation, Generation, Sampling, Score
from tests import tiny

WORDS = [
    "river",
    "stone",
    "lamp",
    "garden",
    "window",
    "bridge",
    "winter",
    "letter",
    "harbour",
    "silver",
    "loaf",
    "sail",
]


def prose(first: int, count: int) -> str:
    """Sentences in which no eight words in a row come twice."""
    return " ".join(
        f"{WORDS[n % 12]} {WORDS[n * 5 % 11]} {WORDS[n // 12 % 12]} {WORDS[n * 7 % 12]}."
        for n in range(first, first + count)
    )


def documents(*texts: str) -> list[Document]:
    return [Document(id=str(number), text=text, source="s") for number, text in enumerate(texts)]


def write(path: Path, *texts: str) -> Path:
    path.write_text("".join(f"{one.to_json()}\n" for one in documents(*texts)), encoding="utf-8")
    return path


class Scripted:
    """A language model with the scores that it was given."""

    name = "scripted"

    def __init__(self, scores: Sequence[Score]) -> None:
        self.scores, self.asked = scores, list[tuple[str, str]]()

    def generate(self, prompts: Sequence[str], sampling: Sampling) -> list[Generation]:
        raise NotImplementedError

    def chat(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Generation]:
        raise NotImplementedError

    def stream(self, conversation: Conversation, sampling: Sampling) -> Iterator[str]:
        raise NotImplementedError

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[Score]:
        self.asked += pairs
        return list(self.scores)


@given(st.text(st.characters(codec="utf-8"), max_size=200))
def test_a_snippet_cuts_into_the_same_tokens_alone_as_in_its_text(text: str) -> None:
    tokenizer = tiny.tokenizer()
    for prefix, rest in cut(text, tokenizer, (4, 6)):
        assert prefix + rest in text
        assert len(tokenizer.encode(prefix)) == 4
        assert len(tokenizer.encode(prefix + rest)) == 10


def test_most_of_a_plain_text_can_be_cut_into_snippets() -> None:
    text = prose(0, 60)
    possible = len(tiny.tokenizer().encode(text)) // 32
    assert len(list(cut(text, tiny.tokenizer(), (16, 16)))) > 0.3 * possible


def test_snippets_that_the_training_text_holds_are_no_probes(tmp_path: Path) -> None:
    known, new = prose(0, 150), prose(400, 150)
    training = write(tmp_path / "train.jsonl", known.upper())
    probes = choose(
        documents(known, new), training, tiny.tokenizer(), repeats=[0, 4], per_count=3, lengths=(24, 24)
    )
    assert Counter(probe.repeats for probe in probes) == {0: 3, 4: 3}
    assert all(probe.text in new for probe in probes)
    assert len({probe.text for probe in probes}) == 6


def test_too_little_held_out_text_says_how_many_snippets_it_has(tmp_path: Path) -> None:
    training = write(tmp_path / "train.jsonl", "nothing alike")
    held_out = documents(prose(0, 20))
    with pytest.raises(
        DataError, match=r"500 snippets of 32 tokens are needed as probes; \d+ of \d+ are new"
    ):
        choose(held_out, training, tiny.tokenizer(), repeats=[0, 1], per_count=250, lengths=(16, 16))
    with pytest.raises(DataError, match="0 of 0"):
        choose([], training, tiny.tokenizer(), repeats=[0, 1], per_count=1, lengths=(16, 16))


def test_a_probe_is_planted_as_often_as_it_says_and_the_control_never(tmp_path: Path) -> None:
    plant([Probe("a", "b", 0), Probe("c", "d", 1), Probe("e", "f", 3)], tmp_path / "planted.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "planted.jsonl").read_text("utf-8").splitlines()]
    assert Counter(row["text"] for row in rows) == {"cd": 1, "ef": 3}
    assert len({row["id"] for row in rows}) == 4


def test_recall_asks_for_the_continuation_after_the_prefix() -> None:
    lm = Scripted([Score(logps=[-1.0, -2.0], greedy=False), Score(logps=[-0.5], greedy=True)])
    rows = recall(lm, [Probe("in the", " beginning", 0), Probe("and", " so", 8)])
    assert lm.asked == [("in the", " beginning"), ("and", " so")]
    assert rows == [
        {"repeats": 0, "verbatim": False, "logp": -1.5},
        {"repeats": 8, "verbatim": True, "logp": -0.5},
    ]


def test_the_table_pairs_each_probe_with_itself_unplanted() -> None:
    def run(*values: tuple[int, bool, float]) -> list[dict[str, object]]:
        return [dict(zip(("repeats", "verbatim", "logp"), value, strict=True)) for value in values]

    planted = [
        run((0, False, -5), (4, True, -1), (0, False, -7), (4, False, -2)),
        run((0, False, -5), (4, True, -1), (0, False, -7), (4, True, -3)),
    ]
    unplanted = [run((0, False, -5), (4, False, -4), (0, False, -6), (4, False, -7))] * 2
    table = tabulate(planted, unplanted)
    control, often = table["rows"]
    assert (control["repeats"], control["asked"], control["verbatim"], control["share"]) == (0, 4, 0, 0.0)
    assert (often["repeats"], often["probes"], often["asked"], often["share"]) == (4, 2, 4, 0.75)
    assert often["low"] == pytest.approx(0.300636, abs=1e-6)  # Wilson: 3 of 4
    assert (control["gain"], often["gain"]) == (-0.5, 3.75)  # (0 - 1) / 2; (3 + 4.5) / 2
    assert often["gain_error"] == pytest.approx(0.75)  # gains of 3 and 4.5: deviation 1.0607 / sqrt 2
    assert (often["logp"], often["logp_unplanted"], often["verbatim_unplanted"]) == (-1.75, -5.5, 0)
    assert table["share_rises"]
    assert table["gain_rises"]


def test_a_value_that_falls_once_does_not_rise() -> None:
    def row(repeats: int, logp: float) -> dict[str, object]:
        return {"repeats": repeats, "verbatim": False, "logp": logp}

    table = tabulate([[row(0, -5), row(1, -2), row(2, -3)]], [[row(0, -5), row(1, -5), row(2, -5)]])
    assert not table["gain_rises"]
    assert not table["share_rises"]  # no snippet was verbatim at all
    assert table["rows"][0]["gain_error"] is None  # one probe tells nothing of the spread
