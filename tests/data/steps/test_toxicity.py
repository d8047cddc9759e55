"""Offensive words: which are seen, through which disguises, and what a document's share decides."""

from __future__ import annotations

import pickle
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import luban
from luban.data.document import Document
from luban.data.step import Batch, Drop, Edit, Packed
from luban.data.steps.toxicity import Toxicity, read_terms
from luban.errors import DataError
from luban.fetch import bible

WEB = Path(luban.__file__).parent / "fetch" / "web.tsv.gz"
MILD = "darn\t1\nheck*\t1\nblast it\t2\nassess\t3\n笨蛋\t1\n大笨蛋王\t2\n"


@pytest.fixture(scope="module")
def mild(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lists") / "mild.txt"
    path.write_text(f"# a list\n\n{MILD}", encoding="utf-8")
    return path


def batch(*texts: str) -> Batch:
    return Batch([Document(id=str(index), text=text, source="test") for index, text in enumerate(texts)])


def terms_in(text: str, path: Path) -> dict[str, int]:
    (outcome,) = Toxicity(languages=(), lists=(path,), mode="flag")(batch(text))
    return outcome.meta["toxic_terms"] if isinstance(outcome, Edit) else {}


@pytest.mark.parametrize(
    ("text", "term"),
    [
        ("Oh DARN!", "darn"),
        ("heckler", "heck"),
        ("blast\n  it", "blast it"),
        ("d4rn and", "darn"),
        ("@ssess", "assess"),
        ("d*rn", "darn"),
        ("d**n", "darn"),
        ("daaaarn", "darn"),
        ("a d.a.r.n. day", "darn"),
        ("D A R N", "darn"),
        ("ｄａｒｎ", "darn"),
        ("你这个笨蛋啊", "笨蛋"),
        ("笨*蛋", "笨蛋"),
        ("他darn的", "darn"),
        ("这大笨蛋王", "大笨蛋王"),
    ],
)
def test_a_term_is_seen_through_its_disguise(text: str, term: str, mild: Path) -> None:
    assert terms_in(text, mild) == {term: 1}


@pytest.mark.parametrize(
    "text",
    [
        "darning",
        "adarn",
        "daarn",
        "blast fit",
        "d a r n s o",
        "s o d a r n",
        "reassess",
        "笨的蛋",
        "d*r*n",
        "1337",
    ],
)
def test_what_is_not_a_whole_term_stays_unseen(text: str, mild: Path) -> None:
    assert terms_in(text, mild) == {}


def test_a_heavy_term_drops_by_name_and_many_light_ones_by_share(mild: Path) -> None:
    step = Toxicity(languages=(), lists=(mild,))
    words = " word" * 97
    heavy, many, few, one = step(
        batch(f"assess darn{words}", f"darn heck{words}", f"darn heck{words * 3}", "darn it")
    )
    assert heavy == Drop("toxic_term", "assess")
    assert many == Drop("toxic_share", 2 / 99)
    assert few is None
    assert one is None
    assert Toxicity(languages=(), lists=(mild,), worst=0)(batch("darn it")) == [Drop("toxic_term", "darn")]
    assert isinstance(Toxicity(languages=(), lists=(mild,), min_terms=1)(batch("darn it"))[0], Drop)


def test_flagging_keeps_the_document_and_tells(mild: Path) -> None:
    step = Toxicity(languages=(), lists=(mild,), mode="flag")
    assert step(batch("darn it all, blast it")) == [
        Edit(meta={"toxicity": 3 / 4, "toxic_terms": {"darn": 1, "blast it": 1}})
    ]


def test_the_built_in_lists_leave_clean_books_alone_and_know_both_languages() -> None:
    chapters = ["\n".join(lines) for _, lines in bible.chapters(WEB)]
    assert Toxicity()(batch(*chapters)) == [None] * len(chapters)
    english, chinese = Toxicity(worst=0)(batch("what the f**k", "点击进入色情网站"))
    assert isinstance(english, Drop)
    assert isinstance(chinese, Drop)


@pytest.mark.parametrize(
    ("lines", "place"), [("darn 1\n", ":1"), ("a\t1\nb\t7\n", ":2"), ("# none\n", "list.txt")]
)
def test_a_list_that_is_wrong_is_told_with_its_line(lines: str, place: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(lines)
    with pytest.raises(DataError, match=re.escape(place)):
        Toxicity(lists=(tmp_path / "list.txt",))(batch("text"))


def test_a_step_travels(mild: Path) -> None:
    step = Toxicity(lists=(mild,))
    assert pickle.loads(pickle.dumps(step))(batch("assess")) == step(batch("assess"))


def oracle(text: str) -> Counter[str]:
    """Undisguised terms: from the left, the longest at each place, by regular expressions."""
    ideograph = "[一-鿿]"
    spaced = [
        rf"(?:(?<![a-z])|(?<={ideograph}))(?P<t{index}>{term.replace(' ', chr(92) + 's+')})(?![a-z])"
        for index, term in enumerate(["assess", "blast it", "darn"])
    ]
    pattern = "|".join(
        [*spaced, "(?P<t3>大笨蛋王)", "(?P<t4>笨蛋)", rf"(?:(?<![a-z])|(?<={ideograph}))(?P<t5>heck)"]
    )
    names = ["assess", "blast it", "darn", "大笨蛋王", "笨蛋", "heck"]
    return Counter(names[int((m.lastgroup or "t0")[1:])] for m in re.finditer(pattern, text.lower()))


@given(
    st.lists(
        st.sampled_from(
            [
                "darn",
                "Darn",
                "heck",
                "blast",
                " ",
                "\n",
                "it",
                "assess",
                "笨蛋",
                "大",
                "王",
                "的",
                "x",
                "ed",
                ", ",
            ]
        ),
        max_size=30,
    ).map("".join)
)
def test_the_kernel_finds_what_the_plain_rule_finds(mild: Path, text: str) -> None:
    assume(not re.search(r"\b[a-z]\b", text.lower()))  # single letters may spell something out
    assume(not re.search(r"[一-鿿][\s,]+[一-鿿]", text))  # a sign between ideographs is a disguise
    terms = read_terms((), (mild,))
    _, hits = terms.count(Packed.of([text]))
    assert Counter(terms.names[term] for term in hits[:, 1]) == oracle(text)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_any_text_can_be_judged_alone_or_together(texts: list[str]) -> None:
    step = Toxicity(mode="flag")
    assert step(batch(*texts)) == [step(batch(text))[0] for text in texts]
