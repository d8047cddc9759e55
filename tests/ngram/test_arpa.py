"""ARPA files: ours are read by KenLM, others' by us, wrong ones refused with their line."""

from __future__ import annotations

import gzip
from pathlib import Path

import kenlm
import numpy as np
import pytest

from luban.data.step import Packed
from luban.errors import DataError
from luban.ngram.arpa import read_arpa, write_arpa
from luban.ngram.model import from_arpa
from tests.ngram.models import train
from tests.ngram.test_kneser_ney import bible

# As SRILM writes: spaces, an exponent, CRLF, words that no suffix of a longer n-gram has ("b c" without "c").
OTHERS = """
\\data\\
ngram 1=5
ngram  2=2
ngram 3=1

\\1-grams:
-1.5 <unk>
-99 <s> -0.25
-1\t</s>
-5e-1\ta\t-0.125\r
-0.75\tb

\\2-grams:
-0.5\t<s> a\t-0.0625
-0.25\ta b

\\3-grams:
-.125\t<s> a a

\\end\\
"""


@pytest.mark.parametrize(("order", "prune"), [(2, (0,)), (3, (0,)), (5, (0, 0, 1))])
def test_kenlm_reads_our_files_and_scores_as_we_do(
    order: int, prune: tuple[int, ...], tmp_path: Path
) -> None:
    trained = train(bible("Mark"), order=order, prune=prune)
    path = tmp_path / "mark.arpa"
    write_arpa(path, trained.grams, trained.letters, trained.ends)
    oracle, lines = kenlm.Model(str(path)), bible("Ruth")
    expected = [sum(logp for logp, _, _ in oracle.full_scores(line)) for line in lines]
    assert trained.model.score(Packed.of(lines)).logp == pytest.approx(expected, abs=1e-4)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    trained = train(bible("James"), order=4)
    path = tmp_path / "james.arpa"
    write_arpa(path, trained.grams, trained.letters, trained.ends)
    packed_path = tmp_path / "james.arpa.gz"
    packed_path.write_bytes(gzip.compress(path.read_bytes()))
    for source in (path, packed_path):
        model, sizes = from_arpa(source)
        assert sizes == [len(each.logp) for each in trained.grams]
        lines = Packed.of(bible("Jude"))
        assert model.score(lines).logp == pytest.approx(trained.model.score(lines).logp, abs=1e-4)


def test_other_makers_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "other.arpa"
    path.write_bytes(OTHERS.encode())
    model, sizes = from_arpa(path)
    assert sizes == [5, 2, 1]
    scores = model.score(Packed.of(["a b", "a a", "x"]))
    # a after <s>; b after "<s> a" backs off to "a b"; the end after "a b" (no weight) and b (none).
    assert scores.logp[0] == pytest.approx(-0.5 + (-0.0625 - 0.25) + -1)
    # "<s> a a" is there; the end after "a a" (absent) and a.
    assert scores.logp[1] == pytest.approx(-0.5 - 0.125 + (-0.125 - 1))
    assert scores.logp[2] == pytest.approx((-0.25 - 1.5) + -1)


def test_a_file_may_leave_out_the_suffixes_of_its_ngrams(tmp_path: Path) -> None:
    words = [f"w{number}" for number in range(300)]
    lines = [
        "\\data\\",
        "ngram 1=303",
        "ngram 2=1",
        "ngram 3=1",
        "ngram 4=1",
        "ngram 5=40000",
        "\n\\1-grams:",
    ]
    lines += [f"-2\t{word}\t-0.5" for word in ["<unk>", "<s>", "</s>", *words]]
    lines += ["\n\\2-grams:", "-1\tw1 w2", "\n\\3-grams:", "-1\tw1 w2 w3", "\n\\4-grams:", "-1\tw1 w2 w3 w4"]
    lines += ["\n\\5-grams:"]
    pairs = [(a, b) for a in words[:200] for b in words[:200]]
    lines += [f"-0.25\t{a} {b} {a} {b} {a}" for a, b in pairs]
    path = tmp_path / "gaps.arpa"
    path.write_text("\n".join([*lines, "\n\\end\\", ""]), encoding="utf-8")
    model, _ = from_arpa(path)
    # The fifth word is in the 5-gram; the others, and the end, stand alone after words that weigh -0.5.
    score = model.score(Packed.of(["w7 w9 w7 w9 w7"])).logp[0]
    assert score == pytest.approx(5 * (-2 - 0.5) - 0.25)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("-0.25\ta b", "-0.25\ta", r":16: .*2-grams"),
        ("-5e-1\ta", "x\ta", r":11: .*1-grams"),
        ("-0.75\tb", "0.75\tb", r":12: .*1-grams"),
        ("\\2-grams:", "\\4-grams:", r":14: expected '\\2-grams:'"),
        ("ngram 1=5", "ngram 1=4", r"expected '\\2-grams:'"),
        ("ngram 1=5", "ngram 1=99999999", "too short"),
        ("\\data\\", "data", "no ARPA file"),
        ("<unk>", "what", "no <unk>"),
        ("-1\t</s>", "-1\ta", "more than once"),
        ("\\end\\", "", r"expected '\\end\\'"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.arpa"
    path.write_bytes(OTHERS.replace(old, new).encode())
    with pytest.raises(DataError, match=message):
        from_arpa(path)


def test_a_file_cut_anywhere_is_refused_and_reads_no_further(tmp_path: Path) -> None:
    path = tmp_path / "cut.arpa"
    for size in range(0, len(OTHERS.encode()) - 7, 3):
        path.write_bytes(OTHERS.encode()[:size])
        with pytest.raises(DataError):
            from_arpa(path)


def test_numbers_are_read_to_the_last_digit(tmp_path: Path) -> None:
    path = tmp_path / "numbers.arpa"
    path.write_bytes(OTHERS.encode())
    _, orders = read_arpa(path)
    assert np.array_equal(orders[0].logp, np.array([-1.5, -99, -1, -0.5, -0.75], np.float32))
    assert np.array_equal(orders[0].backoff, np.array([0, -0.25, 0, -0.125, 0], np.float32))
