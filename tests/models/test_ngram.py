"""n-gram models as a family: in every way a model is called, as a folder, and beside KenLM."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import kenlm
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from luban.errors import DataError, ModelError, PromptError
from luban.inference.generate import generate_tokens
from luban.inference.local import open_lm
from luban.inference.score import score_tokens
from luban.lm import Sampling
from luban.models import FAMILIES, hf
from luban.models.base import Shape
from luban.models.ngram import NgramConfig, NgramLM
from luban.models.ngram_files import read_arpa, write_arpa
from luban.ngram.model import from_arpa
from luban.ngram.settings import Estimator, Smoothing
from luban.ngram.tokens import TokenCounter
from luban.nn.cache import Cache
from luban.training.checkpoint import write_model_folder
from tests import tiny

VOCAB, EOS, BOS = 30, 7, 4
ESTIMATORS: tuple[Estimator, ...] = ("kneser-ney", "katz", "add-k", "maximum-likelihood")
BACK_OFF: tuple[Estimator, ...] = ("kneser-ney", "katz", "maximum-likelihood")
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS)


def texts() -> list[np.ndarray]:
    """Texts in which a token mostly follows the one before it, and its double."""
    generator, made = np.random.default_rng(0), []
    for length in generator.integers(1, 40, 80):
        text = [int(generator.integers(10, VOCAB))]
        for _ in range(length):
            text.append(10 + (text[-1] * 2 + int(generator.geometric(0.6))) % (VOCAB - 10))
        made.append(np.array([*text, EOS]))
    return made


def model_of(estimator: Estimator = "kneser-ney", *, order: int = 4, **changes: Any) -> NgramLM:
    with tempfile.TemporaryDirectory() as folder:
        counter = TokenCounter(order, vocab=VOCAB, eos=EOS, folder=Path(folder), memory=1)
        counter.add(texts())
        table, _ = counter.table(Smoothing(estimator=estimator))
    numbers: dict[str, Any] = {
        "vocab": VOCAB,
        "context": 64,
        "bos_id": BOS,
        "eos_id": EOS,
        "estimator": estimator,
    }
    return NgramLM.of(NgramConfig(**(numbers | changes)), table)


def tokens_of(batch: int, seq: int) -> Tensor:
    rows = np.concatenate([[BOS, *text[:-1]] for text in texts()])[: batch * seq]
    return torch.from_numpy(rows).reshape(batch, seq)


def in_chunks(model: NgramLM, tokens: Tensor, sizes: list[int], cache: Cache) -> Tensor:
    logps = []
    for part in tokens.split(sizes, 1):
        logps.append(model(part, None, cache))
        for slot in cache:
            slot.advance(part.shape[1])
    return torch.cat(logps, 1)


@every_estimator
def test_logits_are_log_probabilities(estimator: Estimator) -> None:
    logps = model_of(estimator)(tokens_of(2, 20))
    assert logps.shape == (2, 20, VOCAB)
    torch.testing.assert_close(logps.double().exp().sum(-1), torch.ones(2, 20).double(), atol=1e-5, rtol=0)


@every_estimator
def test_a_text_read_in_pieces_gives_the_same_logits(estimator: Estimator) -> None:
    model, tokens = model_of(estimator), tokens_of(2, 20)
    for sizes in ([1] * 20, [7, 5, 1, 7]):
        cache = model.make_cache(batch=2, capacity=20)
        assert torch.equal(in_chunks(model, tokens, sizes, cache), model(tokens))


@every_estimator
def test_a_left_padded_row_decodes_as_if_alone(estimator: Estimator) -> None:
    model, tokens, padding = model_of(estimator), tokens_of(3, 12), [6, 0, 3]
    valid = torch.arange(12) >= torch.tensor(padding)[:, None]
    cache = model.make_cache(batch=3, capacity=12, valid=valid)
    batched = in_chunks(model, tokens, [8, 1, 1, 1, 1], cache)
    for row, pad in enumerate(padding):
        assert torch.equal(batched[row : row + 1, pad:], model(tokens[row : row + 1, pad:]))


def test_documents_packed_in_a_row_are_as_separate_ones() -> None:
    model, lengths = model_of(), [5, 9, 1, 6]
    tokens = tokens_of(2, sum(lengths))
    documents = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths)).expand(2, -1)
    separate = torch.cat([model(part) for part in tokens.split(lengths, 1)], 1)
    assert torch.equal(model(tokens, None, model.isolate(documents)), separate)
    assert not torch.equal(model(tokens), separate)


def test_chosen_rows_of_a_cache_go_on_alone() -> None:
    model, tokens, rows = model_of(), tokens_of(3, 8), torch.tensor([2, 2, 0])
    cache = model.make_cache(batch=3, capacity=8)
    in_chunks(model, tokens[:, :7], [7], cache)
    for slot in cache:
        slot.select(rows)
    assert torch.equal(model(tokens[rows, 7:], None, cache), model(tokens)[rows, 7:])


def test_it_sees_the_last_tokens_and_no_more() -> None:
    model, tokens = model_of(), tokens_of(1, 12)
    changed = tokens.clone()
    changed[0, 3] = (tokens[0, 3] + 1) % 10 + 10
    differ = (model(tokens) != model(changed)).any(-1)[0].tolist()
    assert differ == [3 <= place < 3 + 3 for place in range(12)]


def test_what_ends_and_begins_a_text_hides_what_came_before() -> None:
    model = model_of()
    after = [model(torch.tensor([[12, 13, mark, 15]]))[0, -2:] for mark in (BOS, EOS)]
    alone = model(torch.tensor([[BOS, 15]]))[0]
    for logps in after:
        assert torch.equal(logps, alone)


def test_a_model_of_nothing_finds_all_tokens_alike() -> None:
    shape = Shape(model_type="ngram", vocab=VOCAB, context=8, dim=8, layers=1, eos_id=EOS)
    model = hf.build(FAMILIES["ngram"].config.sized(shape))
    torch.testing.assert_close(model(tokens_of(1, 5)), torch.full((1, 5, VOCAB), -math.log(VOCAB)))


@every_estimator
def test_scores_of_single_tokens_are_those_among_all(estimator: Estimator) -> None:
    model = model_of(estimator)
    pairs = [([BOS], text[:-1].tolist()) for text in texts()[:20]]
    pairs += [([BOS], [token]) for token in model(torch.tensor([[BOS]]))[0, -1].topk(3).indices.tolist()]
    for (context, continuation), score in zip(pairs, score_tokens(model, pairs, begin=BOS), strict=True):
        logps = model(torch.tensor([[*context, *continuation[:-1]]]))[0]
        expected = logps.gather(1, torch.tensor(continuation)[:, None])[:, 0]
        assert score.logps == pytest.approx(expected.tolist(), abs=1e-5)
        assert score.greedy == bool((logps.argmax(-1) == torch.tensor(continuation)).all())


def test_the_smoother_model_is_the_better_one_on_texts_it_never_saw() -> None:
    # The order of Chen and Goodman 1998: add-one after Katz after Kneser-Ney; and none at all is no model.
    held = [np.append(text[:6], EOS) for text in texts()[60:]]
    losses = []
    for estimator in ("kneser-ney", "katz", "add-k", "maximum-likelihood"):
        with tempfile.TemporaryDirectory() as folder:
            counter = TokenCounter(3, vocab=VOCAB, eos=EOS, folder=Path(folder))
            counter.add(texts()[:60])
            table, _ = counter.table(Smoothing(estimator=estimator))
        states = [table.follow(np.append(table.start, text[:-1])[None])[0] for text in held]
        losses.append(-sum(float(table.score(*pair).sum()) for pair in zip(states, held, strict=True)))
    assert losses[0] == min(losses)
    assert losses[3] == max(losses)


@every_estimator
def test_loading_what_was_saved_is_the_identity(estimator: Estimator, tmp_path: Path) -> None:
    for order in (1, 2, 5):
        model = model_of(estimator, order=order)
        hf.save(model, tmp_path)
        again = hf.load(tmp_path)
        assert again.config == model.config
        assert torch.equal(again(tokens_of(2, 8)), model(tokens_of(2, 8)))


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("unknown", "unknown weight 'blocks.1.keyss'"),
        ("missing", "weight 'blocks.1.keys' is missing"),
        ("misshaped", r"weight 'blocks.1.keys' has shape \["),
        ("rounded", "weight 'blocks.1.keys' is torch.float32, not whole numbers"),
    ],
)
def test_weights_that_do_not_fit_are_named(fault: str, told: str, tmp_path: Path) -> None:
    hf.save(model_of(), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    keys = weights.pop("blocks.1.keys")
    weights |= {
        "unknown": {"blocks.1.keyss": keys, "blocks.1.keys": keys.clone()},
        "missing": {},
        "misshaped": {"blocks.1.keys": keys[1:]},
        "rounded": {"blocks.1.keys": keys.float()},
    }[fault]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=told):
        hf.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"orders": 3}, "unknown entry 'orders'; did you mean 'order'?"),
        ({"order": 6}, "'order' is 6"),
        ({"order": 3}, "'sizes' has 3 numbers, order 3 makes it 2"),
        ({"eos_id": 30}, "eos_id is 30, of a vocabulary of 30"),
        ({"estimator": "guess"}, "'estimator' is 'guess'"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    hf.save(model_of(), tmp_path)
    entries = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(entries | change))
    with pytest.raises(ModelError) as raised:
        hf.load(tmp_path)
    assert told in str(raised.value)


@pytest.mark.parametrize("change", [{"heads": 4}, {"hidden": 64}, {"eos_id": None}])
def test_a_shape_that_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    numbers: dict[str, Any] = {"vocab": VOCAB, "context": 8, "dim": 8, "layers": 1, "eos_id": EOS}
    with pytest.raises(ModelError, match=next(iter(change))):
        NgramConfig.sized(Shape(model_type="ngram", **(numbers | change)))


def test_what_it_cannot_read_is_refused() -> None:
    with pytest.raises(PromptError, match="token 30 is not one of the model's 30"):
        model_of()(torch.tensor([[3, VOCAB]]))
    with pytest.raises(PromptError, match="not vectors"):
        model_of()(None, embeds=torch.zeros(1, 3, 2))


@pytest.mark.parametrize("order", [2, 5])
@pytest.mark.parametrize("estimator", BACK_OFF)
def test_kenlm_reads_our_files_and_scores_as_we_do(estimator: Estimator, order: int, tmp_path: Path) -> None:
    model = model_of(estimator, order=order)
    write_arpa(model, tmp_path / "model.arpa")
    oracle = kenlm.Model(str(tmp_path / "model.arpa"))
    states = [model.hidden(torch.tensor([[BOS, *text[:-1]]]))[0] for text in texts()]
    ours = [model.logps(state, torch.from_numpy(text)) for state, text in zip(states, texts(), strict=True)]
    for text, logps in zip(texts(), ours, strict=True):
        theirs = [logp for logp, _, _ in oracle.full_scores(" ".join(map(str, text[:-1])))]
        torch.testing.assert_close(logps / math.log(10), torch.tensor(theirs), atol=1e-5, rtol=0)


@pytest.mark.parametrize("estimator", BACK_OFF)
def test_an_arpa_file_read_again_is_the_same_model(estimator: Estimator, tmp_path: Path) -> None:
    model, words = model_of(estimator), [f"▁w{number}" for number in range(VOCAB)]
    write_arpa(model, tmp_path / "model.arpa", words)
    again = read_arpa(tmp_path / "model.arpa", model.config, words)
    assert again.config.sizes == model.config.sizes
    torch.testing.assert_close(again(tokens_of(2, 20)), model(tokens_of(2, 20)), atol=1e-5, rtol=0)
    scores, sizes = from_arpa(tmp_path / "model.arpa")  # the model of words reads it, too
    assert sizes[1:] == list(model.config.sizes)
    assert scores.knows("▁w12".encode())


def test_an_arpa_file_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path, model = tmp_path / "model.arpa", model_of()
    write_arpa(model, path)
    with pytest.raises(DataError, match="the word '0' is no token"):
        read_arpa(path, model.config, [f"w{number}" for number in range(VOCAB)])
    with pytest.raises(DataError, match="2 tokens are called 'x'"):
        write_arpa(model, path, ["x", "x", *map(str, range(2, VOCAB))])
    with pytest.raises(DataError, match="a token is called ' a'"):
        write_arpa(model, path, [" a", *map(str, range(1, VOCAB))])
    with pytest.raises(DataError, match="29 words for a model of 30 tokens"):
        write_arpa(model, path, ["x"] * 29)
    with pytest.raises(ModelError, match="an ARPA file cannot say that"):
        write_arpa(model_of("add-k"), path)


def test_an_arpa_file_without_a_context_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gap.arpa"
    parts = [
        "\\data\\",
        "ngram 1=3",
        "ngram 2=1",
        "ngram 3=1",
        "",
        "\\1-grams:",
        "-1\t</s>",
        "-1\t1\t-1",
        "-1\t2\t-1",
    ]
    parts += ["", "\\2-grams:", "-1\t2 1", "", "\\3-grams:", "-1\t1 2 1", "", "\\end\\", ""]
    path.write_text("\n".join(parts))
    with pytest.raises(DataError, match="has a 3-gram, but not the 2-gram it begins with"):
        read_arpa(path, dataclasses.replace(model_of().config, order=3, sizes=()))


def test_it_writes_streams_and_searches_from_its_folder(tmp_path: Path) -> None:
    tokenizer = tiny.tokenizer()
    assert tokenizer.eos_id is not None
    with tempfile.TemporaryDirectory() as folder:
        counter = TokenCounter(5, vocab=tokenizer.vocab_size, eos=tokenizer.eos_id, folder=Path(folder))
        counter.add([np.array([*tokenizer.encode(text), tokenizer.eos_id]) for text in tiny.TEXTS])
        table, _ = counter.table(Smoothing())
    config = NgramConfig(
        vocab=tokenizer.vocab_size, context=64, bos_id=tokenizer.bos_id, eos_id=tokenizer.eos_id
    )
    write_model_folder(tmp_path, NgramLM.of(config, table), tokenizer)
    lm = open_lm(str(tmp_path))
    prompts = ["In the beginning", "The quick brown fox"]
    greedy = Sampling(max_tokens=40, temperature=0)
    for answer, text in zip(lm.generate(prompts, greedy), (tiny.TEXTS[1], tiny.TEXTS[0]), strict=True):
        assert text.endswith(answer.text)
        assert answer.finish_reason == "stop"
    beams = lm.generate(prompts, Sampling(max_tokens=40, temperature=0, beams=3))
    assert tiny.TEXTS[1].endswith(beams[0].text)
    drawn = [
        lm.generate(prompts, Sampling(max_tokens=9, temperature=3, seed=seed))[0].text
        for seed in (1, 1, 2, 3, 4)
    ]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1


def test_draws_follow_the_probabilities() -> None:
    model, tokenizer = model_of(order=2), tiny.tokenizer()
    torch.manual_seed(0)
    expected = model(torch.tensor([[12]]))[0, -1].exp()
    draws = 800
    samplings = [Sampling(max_tokens=1, temperature=1, top_k=0, top_p=1, ignore_eos=True)] * draws
    made = generate_tokens(model, [[12]] * draws, samplings, tokenizer=tokenizer, stop_ids=frozenset())
    counts = torch.bincount(torch.tensor([answer.tokens[0] for answer in made]), minlength=VOCAB)
    tolerance = 4 * (expected * (1 - expected) / draws).sqrt() + 2 / draws
    assert ((counts / draws - expected).abs() <= tolerance).all()


def test_all_orders_of_a_model_hold_the_same_n_grams() -> None:
    sizes = [model_of(order=order).config.sizes for order in range(1, 6)]
    for shorter, longer in itertools.pairwise(sizes):
        assert longer[: len(shorter)] == shorter
