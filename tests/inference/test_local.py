"""A model folder as a language model: text in, text and log-probabilities out."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from luban.device import DeviceConfig
from luban.errors import ModelError, PromptError
from luban.inference.local import LocalLM, open_lm
from luban.inference.score import score_tokens, split_pair
from luban.lm import Sampling
from luban.models import hf
from tests import tiny
from tests.inference.test_generate import loud

GREEDY = Sampling(temperature=0, max_tokens=8)
DEVICE = DeviceConfig(device="cpu", threads=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("models") / "tiny-llama"
    hf.save(loud(tiny.llama()), path)
    tiny.tokenizer().save(path)
    return path


@pytest.fixture(scope="module")
def lm(folder: Path) -> LocalLM:
    return open_lm(str(folder), DEVICE)


def uncached_logps(lm: LocalLM, ids: list[int]) -> list[float]:
    """The log-probability of each of `ids` but the first, by one plain forward."""
    logps = lm.model(torch.tensor([ids])).detach()[0].log_softmax(-1)
    return [float(logps[place, token]) for place, token in enumerate(ids[1:])]


def test_a_folder_opens_under_its_name(lm: LocalLM) -> None:
    assert (lm.name, lm.context) == ("tiny-llama", 64)


def test_prompts_of_many_lengths_come_back_in_order(lm: LocalLM) -> None:
    prompts = ["The quick", "a", "What is the capital of France?", "鲁班", "a"]
    together = lm.generate(prompts, GREEDY)
    assert [made.text for made in together] == [lm.generate([prompt], GREEDY)[0].text for prompt in prompts]
    assert together[1] == together[4]


def test_many_prompts_are_cut_into_batches(lm: LocalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = ["The quick", "a", "fox", "the tools"]
    expected = lm.generate(prompts, GREEDY)
    monkeypatch.setattr("luban.inference.local.BATCH_TOKENS", 1)
    assert lm.generate(prompts, GREEDY) == expected


def test_a_chat_answer_continues_the_rendered_conversation(lm: LocalLM) -> None:
    conversation = [{"role": "user", "content": "Hi"}]
    ids, _ = lm.tokenizer.render(conversation, add_generation_prompt=True)
    (made,) = lm.chat([[{"role": "user", "content": "Hi"}]], GREEDY)
    assert made.prompt_tokens == len(ids) == lm.count([{"role": "user", "content": "Hi"}])
    following = uncached_greedy(lm, ids, len(made.tokens))
    assert made.tokens == following


def uncached_greedy(lm: LocalLM, ids: list[int], count: int) -> list[int]:
    tokens = list(ids)
    for _ in range(count):
        tokens.append(int(lm.model(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[len(ids) :]


@pytest.mark.parametrize("reason", ["stop", "length"])
def test_a_streamed_chat_returns_why_it_ended(lm: LocalLM, reason: str) -> None:
    (made,) = lm.chat([[{"role": "user", "content": "Hi"}]], GREEDY)
    sampling = dataclasses.replace(GREEDY, stop=(made.text[-1],) if reason == "stop" else ())
    pieces = lm.stream([{"role": "user", "content": "Hi"}], sampling)
    assert made.finish_reason == "length"
    assert returned(pieces) == reason


def returned(pieces: Iterator[str]) -> object:
    """What a generator returns at its end."""
    try:
        while True:
            next(pieces)
    except StopIteration as end:
        return end.value


def test_a_streamed_chat_is_the_same_answer(lm: LocalLM) -> None:
    (made,) = lm.chat([[{"role": "user", "content": "Hi"}]], GREEDY)
    assert "".join(lm.stream([{"role": "user", "content": "Hi"}], GREEDY)) == made.text


def test_a_model_without_a_template_cannot_chat_and_says_what_can_be_done(lm: LocalLM) -> None:
    plain = LocalLM(lm.model, tiny.tokenizer(), name="base")
    plain.tokenizer = type("Plain", (), {"chat_template": None})()  # pyright: ignore[reportAttributeAccessIssue] - only this is read
    with pytest.raises(PromptError, match="luban generate"):
        plain.chat([[{"role": "user", "content": "Hi"}]], GREEDY)


def test_a_continuation_is_scored_after_its_context(lm: LocalLM) -> None:
    context, continuation = "The quick brown", " fox jumps"
    left, right = split_pair(lm.tokenizer, context, continuation)
    (score,) = lm.score([(context, continuation)])
    assert score.logps == pytest.approx(uncached_logps(lm, left + right)[-len(right) :], abs=1e-4)
    assert score.total == pytest.approx(sum(score.logps))


def test_scores_do_not_depend_on_the_batch(lm: LocalLM) -> None:
    pairs = [("The", " quick"), ("", "In the beginning the builder"), ("What is the capital of", " France?")]
    together = lm.score(pairs)
    for pair, expected in zip(pairs, together, strict=True):
        assert lm.score([pair])[0].logps == pytest.approx(expected.logps, abs=1e-4)


def test_an_empty_context_is_the_begin_token(lm: LocalLM) -> None:
    text = "The quick brown fox"
    ids = lm.tokenizer.encode(text)
    begin = lm.tokenizer.bos_id
    assert begin is not None
    assert lm.score([("", text)])[0].logps == pytest.approx(uncached_logps(lm, [begin, *ids]), abs=1e-4)


def test_a_long_document_is_scored_in_windows_each_from_its_own_beginning(lm: LocalLM) -> None:
    ids = [(7 * place) % 384 for place in range(150)]
    (score,) = score_tokens(lm.model, [([], ids)], begin=3)
    expected = [
        value for first in (0, 64, 128) for value in uncached_logps(lm, [3, *ids[first : first + 64]][:65])
    ]
    assert score.logps == pytest.approx(expected, abs=1e-4)


def test_the_head_in_pieces_gives_the_same_scores(lm: LocalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [("", "In the beginning the builder made his own tools")]
    (whole,) = lm.score(pairs)
    monkeypatch.setattr("luban.inference.score.LOGITS_AT_ONCE", 3 * 384)
    assert lm.score(pairs)[0].logps == pytest.approx(whole.logps, abs=1e-5)


def test_a_greedy_continuation_is_recognised(lm: LocalLM) -> None:
    prompt = [5, 6, 7]
    likeliest = uncached_greedy(lm, prompt, 4)
    other = [*likeliest[:3], (likeliest[3] + 1) % 384]
    scores = score_tokens(lm.model, [(prompt, likeliest), (prompt, other)], begin=0)
    assert [score.greedy for score in scores] == [True, False]


def test_a_pair_longer_than_the_window_is_refused_with_both_numbers(lm: LocalLM) -> None:
    with pytest.raises(PromptError, match=r"66 tokens.*window 64"):
        score_tokens(lm.model, [([1] * 60, [2] * 6)], begin=0)


def test_a_pair_that_just_fits_is_scored(lm: LocalLM) -> None:
    assert len(score_tokens(lm.model, [([1] * 60, [2] * 5)], begin=0)[0].logps) == 5


def test_spaces_before_the_border_go_to_the_continuation() -> None:
    tokenizer = tiny.tokenizer()
    left, right = split_pair(tokenizer, "The quick ", "brown fox")
    assert tokenizer.decode(left) == "The quick"
    assert tokenizer.decode(right) == " brown fox"


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_refused_by_name(folder: Path, tmp_path: Path, name: str) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / name).unlink()
    with pytest.raises(ModelError, match=name):
        open_lm(str(broken), DEVICE)


def test_a_folder_that_is_not_there_is_refused_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="luban fetch"):
        open_lm(str(tmp_path / "nothing"), DEVICE)


def test_end_ids_of_the_generation_config_end_an_answer(folder: Path, tmp_path: Path, lm: LocalLM) -> None:
    free = lm.generate(["The quick"], Sampling(temperature=0, max_tokens=8, ignore_eos=True))[0]
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    settings = {"eos_token_id": [0, free.tokens[2]], "temperature": 0.6, "do_sample": True}
    (copy / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")
    other = open_lm(str(copy), DEVICE)
    made = other.generate(["The quick"], GREEDY)[0]
    assert made.tokens == free.tokens[: free.tokens.index(free.tokens[2]) + 1]
    assert other.suggested == {"temperature": 0.6}
