"""The stage `data balance`: kinds of instructions told apart, and a pool drawn in a log's proportions."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luban.data import balance
from luban.data.balance import Config, draw, quotas_for
from luban.data.conversations import read_examples
from luban.data.task_types import TypeClassifier, excerpt, instruction_in, learn_types, pattern_instructions
from luban.errors import DataError
from tests import tiny

# Written apart from the patterns: five or so of what people ask, of each kind.
ASKED = {
    "chat": [
        "hey there! how was your weekend?",
        "I feel lonely tonight, can we talk for a bit?",
        "lol you're silly, what's your favorite movie?",
        "good morning sunshine",
        "你会做梦吗？",
    ],
    "question": [
        "Why do cats purr?",
        "Who painted the Mona Lisa and when?",
        "Can you explain how vaccines work?",
        "what's the tallest mountain in Africa",
        "为什么天空是蓝色的？",
    ],
    "reading": [
        "Read the following paragraph and answer the question. The library opens at nine and closes at six, except on"
        " Sundays. Question: When does the library close on weekdays?",
        "Passage: Marie Curie was born in Warsaw and moved to Paris in 1891. Based on the passage, where was she born?",
        "Given this context, answer: The recipe calls for two eggs and a cup of flour. How many eggs do I need?",
        "根据短文回答：小王每天早上七点起床，八点去上班。小王几点去上班？",
    ],
    "brainstorm": [
        "I need a catchy name for my dog grooming business, give me 10 options",
        "What are some fun things to do with kids on a rainy day?",
        "Suggest five topics for a podcast on history",
        "Come up with a list of healthy snacks for the office",
        "给我的新猫起几个有趣的名字",
    ],
    "writing": [
        "Write a limerick about a grumpy cat",
        "Draft a resignation letter to my manager, keep it polite",
        "Create a bedtime story with a dragon who is afraid of fire",
        "Compose a LinkedIn post announcing my new job as a nurse",
        "写一首关于母亲的诗",
    ],
    "rewriting": [
        "Make this email sound more professional: hey bob, cant make it tmrw, soz",
        "Correct the grammar: She don't like going to school because it are boring.",
        "Paraphrase this sentence so it isn't plagiarism: Trade increased rapidly in the nineteenth century.",
        "Please shorten the following paragraph without changing the meaning: The weather, which had been bad all"
        " week, finally improved.",
        "请把这句话改得更礼貌一些：快点把报告发给我。",
    ],
    "summary": [
        "Summarize the article below in two sentences. Scientists have found a new species of frog in the rainforests"
        " of Ecuador. It is smaller than a fingernail.",
        "tl;dr this for me: The council approved the plan after a long debate, despite complaints by residents.",
        "Give me the main points of this meeting transcript: Anna: we ship on Friday. Tom: tests must pass first.",
        "用一句话总结这篇新闻：昨晚市中心发生停电，影响了五千户居民。",
    ],
    "classification": [
        "Is this tweet positive, negative or neutral? 'Just got my vaccine, feeling great!'",
        "Classify each of these animals as mammal, bird or reptile: eagle, whale, lizard",
        "Tell me whether this message is spam: You have won a free cruise! Click here.",
        "What category does this news headline fall under: 'Striker signs for Madrid'",
        "判断这条评论是正面还是负面：物流太慢了，再也不买了。",
    ],
    "extraction": [
        "Extract all the phone numbers from this text: Call Jim on 555-1234 or Sue on 555-9876.",
        "List the ingredients mentioned in the paragraph: Mix the butter with sugar, then add vanilla.",
        "Find every person named in this article: President Smith met Ms. Jones and Dr. Wu in Geneva.",
        "从下面的句子中提取地名：我上周从上海飞到了巴黎。",
    ],
    "translation": [
        "Translate 'where is the train station' to Italian",
        "How do you say good luck in Swahili?",
        "Please put this into German: The meeting has been moved to Thursday.",
        "把“我爱你”翻译成法语",
    ],
    "code": [
        "write a python script to rename all files in a folder",
        "My React component re-renders infinitely, how can I fix it?",
        "What does this regex match: ^[a-z]+\\d{2}$",
        "Implement binary search in Java",
        "用Python写一个爬虫下载图片",
    ],
    "mathematics": [
        "If I drive 60 miles per hour for 2.5 hours, how far do I go?",
        "Solve the equation 5x - 3 = 22",
        "What's 17% of 340?",
        "Find the integral of sin(x) cos(x)",
        "一个长方形长8米宽5米，面积是多少？",
    ],
}


@pytest.fixture(scope="module")
def classifier() -> TypeClassifier:
    return learn_types(*zip(*pattern_instructions(), strict=True))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A pool mostly of mathematics, and a log mostly of translation."""
    made = {kind: [text for text, own in pattern_instructions(7) if own == kind] for kind in ASKED}
    pool = [*made["mathematics"][:200], *made["translation"][:60], *made["code"][:40], *made["chat"][:10]]
    rows = [{"instruction": text, "output": "done"} for text in pool]
    (tmp_path / "pool.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    log = [*made["translation"][60:120], *made["code"][40:70], *made["mathematics"][200:210]]
    (tmp_path / "log.txt").write_text("\n".join(log), encoding="utf-8")
    return Config(data=(tmp_path / "pool.jsonl",), log=(tmp_path / "log.txt",), out=tmp_path / "out")


def drawn(config: Config) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (config.out / "rows.jsonl").read_text(encoding="utf-8").splitlines()]


def test_kinds_are_told_apart_in_instructions_written_apart_from_the_patterns(
    classifier: TypeClassifier,
) -> None:
    asked = [(text, kind) for kind, texts in ASKED.items() for text in texts]
    found = classifier.classify([text for text, _ in asked])
    right = sum(classifier.names[number] == kind for number, (_, kind) in zip(found, asked, strict=True))
    assert right / len(asked) > 0.85  # 52 of 56; the commonest kind alone would be 5


def test_what_is_drawn_has_the_proportions_of_the_log(config: Config) -> None:
    results = balance.run(config)
    assert results["distance"]["pool"] > 0.4
    assert results["distance"]["drawn"] < 0.05
    kinds = Counter(row["type"] for row in drawn(config))
    assert kinds["translation"] / kinds.total() == pytest.approx(
        results["kinds"]["translation"]["log"], abs=0.02
    )
    assert set(kinds) <= {name for name, kind in results["kinds"].items() if kind["log"]}
    assert results["rows"] == kinds.total()


def test_no_row_comes_twice_within_an_epoch(config: Config) -> None:
    balance.run(config)
    texts = Counter(row["instruction"] for row in drawn(config))
    assert set(texts.values()) == {1}


def test_rows_beyond_the_shares_are_repeated_up_to_max_epochs(config: Config) -> None:
    results = balance.run(dataclasses.replace(config, rows=150, max_epochs=2.0))
    assert results["rows"] == 150
    texts = Counter(row["instruction"] for row in drawn(config))
    assert max(texts.values()) == 2
    assert results["distance"]["drawn"] < 0.05


def test_rows_stay_as_they_were_but_for_their_kind(config: Config) -> None:
    balance.run(config)
    pool = set(config.data[0].read_text(encoding="utf-8").splitlines())
    assert all(
        json.dumps({key: row[key] for key in ("instruction", "output")}) in pool for row in drawn(config)
    )
    assert len(read_examples([config.out], tiny.tokenizer())) == len(drawn(config))


def test_kinds_can_be_learnt_from_labelled_instructions(config: Config, tmp_path: Path) -> None:
    rows = [{"prompt": f"please {verb} number {n}", "type": kind} for n in range(60) for verb, kind in
            (("fetch", "search"), ("delete", "change"), ("rename", "change"))]  # fmt: skip
    (tmp_path / "labelled.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "log.txt").write_text("fetch it\n" * 3 + "delete that\n", encoding="utf-8")
    pool = [
        {"prompt": f"{verb} it {n}", "completion": "ok"} for n in range(30) for verb in ("fetch", "rename")
    ]
    config.data[0].write_text("\n".join(map(json.dumps, pool)), encoding="utf-8")
    results = balance.run(dataclasses.replace(config, labelled=(tmp_path / "labelled.jsonl",)))
    assert Counter(row["type"] for row in drawn(config)) == {"search": 30, "change": 10}
    assert results["classifier"]["accuracy"] == 1


def test_a_kind_that_the_pool_lacks_is_told(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    with config.log[0].open("a", encoding="utf-8") as file:
        file.write("\nSummarize the following article in one sentence: The vote was postponed." * 10)
    balance.run(config)
    assert "the pool has no summary (9.1% of the log)" in capsys.readouterr().err


def test_rows_without_an_instruction_are_rejected_with_their_reason(config: Config) -> None:
    with config.data[0].open("a", encoding="utf-8") as file:
        file.write('\n{"messages": [{"role": "assistant", "content": "hi"}]}\n{"odd": 1}\n{')
    assert balance.run(config)["rejected"] == 3
    lines = (config.out / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0])["reason"] == "there is no instruction in this row"


def test_a_log_without_instructions_is_refused_and_nothing_is_written(config: Config, tmp_path: Path) -> None:
    (tmp_path / "odd.jsonl").write_text('{"odd": 1}\n', encoding="utf-8")
    with pytest.raises(
        DataError, match=r"odd\.jsonl: there is no instruction in it; .*odd\.jsonl:1: unknown row"
    ):
        balance.run(dataclasses.replace(config, log=(tmp_path / "odd.jsonl",)))
    assert not config.out.exists()


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "why?"},
        {"instruction": "why?"},
        {"text": "why?"},
        [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "why?"}],
        {"conversations": [{"from": "human", "value": "why?"}]},
        {"instruction": "why?", "output": None},
    ],
)
def test_a_logs_rows_may_lack_their_answers(row: Any) -> None:
    assert instruction_in(row, "log:1") == "why?"


def test_of_a_long_instruction_both_ends_are_looked_at() -> None:
    assert excerpt("a" * 300 + "b" * 500 + "c" * 150) == "a" * 300 + " " + "c" * 150
    assert excerpt("short") == "short"


def test_quotas_by_hand() -> None:
    # Log 3 : 1. Of 10 rows of the first kind and 90 of the second, 10 and 10 / 3 keep that.
    quota = quotas_for(np.array([3, 1, 0, 5]), np.array([10, 90, 4, 0]), rows=0, max_epochs=1)
    assert quota.tolist() == [10, 3, 0, 0]
    # 40 rows asked for: the first kind gives its 10, the second the other 30.
    assert quotas_for(np.array([3, 1]), np.array([10, 90]), rows=40, max_epochs=1).tolist() == [10, 30]
    with pytest.raises(DataError, match="no kind of task in common"):
        quotas_for(np.array([1, 0]), np.array([0, 1]), rows=0, max_epochs=1)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=8))
def test_a_draw_gives_each_kind_its_quota_and_repeats_evenly(pairs: list[tuple[int, int]]) -> None:
    have = np.array([have for have, _ in pairs])
    quotas = np.where(have > 0, np.array([wanted for _, wanted in pairs]), 0)
    kinds = np.repeat(np.arange(len(have)), have)
    numbers = draw(kinds, quotas, seed=0)
    assert np.bincount(kinds[numbers], minlength=len(have)).tolist() == quotas.tolist()
    for kind in np.flatnonzero(quotas):
        times = np.bincount(numbers, minlength=len(kinds))[kinds == kind]
        assert times.max() - times.min() <= 1
