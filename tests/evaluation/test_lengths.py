"""The stage `eval lengths`: pieces that are the whole text, and perplexity worked out by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.cli import main
from luban.errors import ConfigError, DataError
from luban.evaluation import lengths
from luban.evaluation.compare import named
from luban.evaluation.lengths import fitting, perplexities, pieces
from luban.inference.local import open_lm
from luban.models import hf
from luban.tokenizers.files import load
from tests import tiny
from tests.conftest import Workspace
from tests.evaluation.readers import warming_up

TEXT = " ".join(tiny.TEXTS * 4)


@settings(max_examples=40)
@given(st.text(max_size=200), st.integers(2, 40))
def test_pieces_join_to_the_text_and_none_is_longer_than_asked(text: str, length: int) -> None:
    cut = list(pieces(text, length, tiny.tokenizer()))
    assert "".join(cut) == text
    for piece in cut:
        assert (
            len(tiny.tokenizer().encode(piece)) <= length or len(piece) == 1
        )  # some characters are 3 tokens


def test_a_piece_is_as_long_as_it_can_be() -> None:
    tokenizer = tiny.tokenizer()
    end = fitting(TEXT, 100, tokenizer)
    assert len(tokenizer.encode(TEXT[:end])) <= 100 < len(tokenizer.encode(TEXT[: end + 8]))


def test_a_model_that_gains_by_reading_on_has_lower_perplexity_on_longer_pieces() -> None:
    curve = perplexities(warming_up(50), tiny.tokenizer(), TEXT, (20, 80, 320), tokens=320)
    start = TEXT[: fitting(TEXT, 320, tiny.tokenizer())]
    (whole,) = pieces(start, 320, tiny.tokenizer())
    # 50 characters cost 4 bits each and all others 1 bit.
    assert curve[320] == pytest.approx(2 ** ((50 * 4 + len(whole) - 50) / len(whole)))
    assert curve[20] > curve[80] > curve[320]


def test_a_models_perplexity_is_that_of_its_logits(workspace: Workspace) -> None:
    tokenizer, text = load(workspace.model), lengths.read_text((workspace.documents,))
    (curve,) = (
        perplexities(open_lm(str(workspace.model)), tokenizer, text, (40,), tokens=200) for _ in range(1)
    )
    model, nats, count = hf.load(workspace.model), 0.0, 0
    assert tokenizer.bos_id is not None
    for piece in pieces(text[: fitting(text, 200, tokenizer)], 40, tokenizer):
        ids = tokenizer.encode(piece)
        with torch.no_grad():
            logits = model(torch.tensor([[tokenizer.bos_id, *ids[:-1]]]))
        nats += torch.nn.functional.cross_entropy(logits[0], torch.tensor(ids), reduction="sum").item()
        count += len(ids)
    assert curve[40] == pytest.approx(math.exp(nats / count), rel=1e-4)


def test_too_little_text_for_the_longest_piece_is_refused() -> None:
    with pytest.raises(DataError, match=r"the held-out text has \d+ tokens, one piece 9999"):
        perplexities(warming_up(1), tiny.tokenizer(), TEXT, (20, 9999), tokens=10)


def test_models_are_called_by_their_folders() -> None:
    assert named(["runs/one/final", "runs/two/final"]) == {
        "one": "runs/one/final",
        "two": "runs/two/final",
    }
    assert named(["a/final", "b/a/final"]) == {"a/final": "a/final", "b/a/final": "b/a/final"}
    with pytest.raises(ConfigError, match="each once"):
        named(["a", "a"])


def test_the_stage_leaves_a_picture_and_its_numbers(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", "lengths", "--models", str(workspace.model), "--data", str(workspace.documents)]
    words += ["--lengths", "64", "256", "512", "--tokens", "1000", "--out", str(tmp_path / "curve")]
    assert main([*words, "--threads", "1", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    curve = results["perplexity"]["model"]
    assert list(curve) == ["64", "256", "512"]
    # Beyond its window of 256 a model reads in windows: nothing is refused.
    assert curve["512"] == pytest.approx(curve["256"], rel=0.02)
    assert json.loads((tmp_path / "curve" / lengths.RESULTS).read_text()) == results
    assert (tmp_path / "curve" / lengths.PICTURE).read_bytes().startswith(b"\x89PNG")
