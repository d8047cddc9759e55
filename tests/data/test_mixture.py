"""`data mix`: shares, epochs and the global shuffle, the same for any number of processes and any memory."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luban.data.mixture import Config, copies, plan_epochs, run
from luban.data.sources import read_documents
from luban.errors import ConfigError, DataError


def corpus(folder: Path, count: int, *, held: int = 0, word: str = "") -> Path:
    """A documents folder with `count` texts of 100 bytes, in two files."""
    folder.mkdir()
    rows = [
        {"id": f"{folder.name}-{n}", "text": f"{word or folder.name} {n:05d} ".ljust(100, "x")}
        for n in range(count)
    ]
    files = {"train-00000": rows[: count // 3], "train-00001": rows[count // 3 :]}
    for name, some in files.items():
        lines = (json.dumps({**row, "source": folder.name}) + "\n" for row in some)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    held_rows = (
        json.dumps({"id": f"held-{n}", "text": f"{word} {n:05d} ".ljust(100, "x")}) for n in range(held)
    )
    (folder / "holdout.jsonl").write_text("".join(f"{row}\n" for row in held_rows), encoding="utf-8")
    return folder


def mixed(out: Path) -> list[str]:
    return [document.id for document in read_documents([out])]


def test_sources_get_the_shares_that_their_weights_say(tmp_path: Path) -> None:
    data = (corpus(tmp_path / "a", 3000), corpus(tmp_path / "b", 1000))
    results = run(Config(data=data, out=tmp_path / "out", weights=(1, 3), max_epochs=2, workers=1))
    # b has 0.1 MB, at most twice: 0.2 MB is three quarters; a gives 1/15 MB, 0.22 epochs.
    assert results["sources"][str(data[1])]["documents"] == 2000
    assert results["sources"][str(data[0])]["epochs"] == pytest.approx(2 / 9, abs=1e-4)
    assert results["sources"][str(data[0])]["share"] == pytest.approx(0.25, abs=0.015)
    times = Counter(name.partition("#")[0] for name in mixed(tmp_path / "out") if name.startswith("b-"))
    assert set(times.values()) == {2}


def test_neither_processes_nor_memory_change_the_order(tmp_path: Path) -> None:
    data = (corpus(tmp_path / "a", 900), corpus(tmp_path / "b", 300))
    usual = Config(data=data, out=tmp_path / "one", workers=1)
    run(usual)
    run(Config(data=data, out=tmp_path / "two", workers=2, memory=0.01))
    assert mixed(tmp_path / "one") == mixed(tmp_path / "two")
    run(Config(data=data, out=tmp_path / "other", workers=1, seed=1))
    assert sorted(mixed(tmp_path / "one")) == sorted(mixed(tmp_path / "other"))
    assert mixed(tmp_path / "one") != mixed(tmp_path / "other")


def test_the_shuffle_lets_sources_alternate(tmp_path: Path) -> None:
    run(
        Config(
            data=(corpus(tmp_path / "a", 600), corpus(tmp_path / "b", 600)), out=tmp_path / "out", workers=1
        )
    )
    names = [name[0] for name in mixed(tmp_path / "out")]
    changes = sum(one != other for one, other in itertools.pairwise(names))
    # Of 1199 neighbours half differ; the standard deviation is 17.
    assert abs(changes - 600) < 5 * 17


def test_a_text_that_one_source_holds_out_is_not_trained_on_from_another(tmp_path: Path) -> None:
    data = (corpus(tmp_path / "a", 300, word="same"), corpus(tmp_path / "b", 100, held=7, word="same"))
    results = run(Config(data=data, out=tmp_path / "out", workers=1))
    held = {document.text for document in read_documents([tmp_path / "out"], holdout=True)}
    assert len(held) == 7
    assert not held & {document.text for document in read_documents([tmp_path / "out"])}
    assert results["held_out_elsewhere"] == 14


def test_without_weights_temperature_lifts_the_small_source(tmp_path: Path) -> None:
    data = (corpus(tmp_path / "a", 1600), corpus(tmp_path / "b", 100))
    flat = run(Config(data=data, out=tmp_path / "out", temperature=2, max_epochs=4, workers=1))
    # sqrt(16) : sqrt(1) = 4 : 1
    assert flat["sources"][str(data[1])]["share"] == pytest.approx(0.2, abs=0.01)


@given(
    st.lists(st.tuples(st.integers(1, 10**9), st.floats(0.01, 100)), min_size=1, max_size=6),
    st.floats(0.1, 8),
    st.floats(0, 1e10),
)
def test_no_source_exceeds_its_epochs_and_what_is_asked_for_comes_if_there_is_enough(
    sources: list[tuple[int, float]], limit: float, total: float
) -> None:
    sizes, weights = [size for size, _ in sources], [weight for _, weight in sources]
    epochs = plan_epochs(sizes, weights, limit, total)
    assert all(0 <= times <= limit * (1 + 1e-9) for times in epochs)
    drawn = sum(times * size for times, size in zip(epochs, sizes, strict=True))
    if total:
        assert drawn == pytest.approx(min(total, limit * sum(sizes)), rel=1e-6)


def test_a_document_comes_as_often_as_its_source_and_once_more_by_chance() -> None:
    assert [copies(key << 62, 2.5) for key in range(4)] == [3, 3, 2, 2]


def test_wrong_numbers_of_weights_and_empty_sources_are_refused(tmp_path: Path) -> None:
    data = (corpus(tmp_path / "a", 9), corpus(tmp_path / "b", 9))
    with pytest.raises(ConfigError, match="1 weights for 2 folders"):
        run(Config(data=data, out=tmp_path / "out", weights=(1,)))
    with pytest.raises(DataError, match="no text in this source"):
        run(Config(data=(data[0], corpus(tmp_path / "c", 0)), out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()
