"""Answers: as the engine of inference gives them, with the log-probabilities that the trainer finds too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from luban.alignment.experience import gathered, joined, only_finished
from luban.alignment.likelihood import likelihood
from luban.alignment.roles import difference, in_parts
from luban.alignment.rollout import Answer, answer_all, draw, uniforms
from luban.errors import TrainingError
from luban.inference.generate import generate_tokens
from luban.lm import Sampling
from tests import tiny
from tests.alignment.models import prompts

FAMILIES = {"llama": tiny.llama, "gpt2": tiny.gpt2, "mamba": tiny.mamba}


def answers_of(model: Any, path: Path, **settings: Any) -> list[Answer]:
    told: dict[str, Any] = {"tokenizer": tiny.tokenizer(), "max_tokens": 12, **settings}
    return answer_all(model, prompts(path), **told)


def eager_to_stop(model: Any) -> Any:
    """`model` with a head that likes to end, so that answers have several lengths."""
    with torch.no_grad():
        model.head.weight *= 8
        stop = tiny.tokenizer().stop_ids[0]
        model.head.weight[stop] = 3 * model.head.weight.mean(0) + 0.3 * torch.randn(model.config.dim)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_answers_are_those_of_the_inference_engine(family: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = FAMILIES[family]().eval()
    ours = answers_of(model, tmp_path, temperature=0.0)
    sampling = Sampling(max_tokens=12, temperature=0, logprobs=True)
    asked = [prompt.ids for prompt in prompts(tmp_path)]
    known: dict[str, Any] = {"tokenizer": tiny.tokenizer(), "stop_ids": frozenset(tiny.tokenizer().stop_ids)}
    theirs = generate_tokens(model, asked, [sampling] * len(asked), **known)
    assert [answer.tokens for answer in ours] == [answer.tokens for answer in theirs]
    assert [answer.text for answer in ours] == [answer.text for answer in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.logps == pytest.approx(other.logps, abs=1e-5)
        assert mine.finished == (other.finish_reason == "stop")


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_trainer_finds_the_sampler_s_log_probabilities(temperature: float, tmp_path: Path) -> None:
    torch.manual_seed(2)
    model = eager_to_stop(tiny.llama())
    answers = answers_of(model, tmp_path, temperature=temperature, times=6)
    assert len({len(answer.tokens) for answer in answers}) > 3
    assert {answer.finished for answer in answers} == {True, False}
    experience = gathered(answers)
    found = likelihood(model, experience, temperature=temperature).logps
    torch.testing.assert_close(found, experience.logps, atol=1e-5, rtol=1e-4)


def test_answers_to_one_prompt_stand_side_by_side_and_differ(tmp_path: Path) -> None:
    torch.manual_seed(0)
    answers = answers_of(tiny.llama(), tmp_path, times=3)
    asked = [prompt.where for prompt in prompts(tmp_path)]
    assert [answer.prompt.where for answer in answers] == [where for where in asked for _ in range(3)]
    assert len({tuple(answer.tokens) for answer in answers}) == len(answers)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_is_the_same_whichever_others_are_drawn_beside_it(family: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model, asked = FAMILIES[family](), prompts(tmp_path)
    told: dict[str, Any] = {"tokenizer": tiny.tokenizer(), "max_tokens": 12, "times": 2}
    numbers = uniforms(7, 3, answers=2 * len(asked), max_tokens=12)
    together = answer_all(model, asked, drawn_by=numbers, **told)
    for n, prompt in enumerate(asked):
        alone = answer_all(model, [prompt], drawn_by=numbers[2 * n : 2 * n + 2], **told)
        assert [answer.tokens for answer in alone] == [
            answer.tokens for answer in together[2 * n : 2 * n + 2]
        ]


def test_every_iteration_and_seed_draws_by_other_numbers() -> None:
    told = [uniforms(seed, step, answers=2, max_tokens=3) for seed in (0, 1) for step in (1, 2)]
    assert len({number for numbers in told for number in numbers.flatten().tolist()}) == 4 * 6
    assert torch.equal(told[0], uniforms(0, 1, answers=2, max_tokens=3))


def test_a_token_is_where_the_running_sum_exceeds_its_number() -> None:
    logits = torch.tensor([0.2, 0.5, 0.0, 0.3]).log().expand(6, 4)
    drawn, logps = draw(logits, 1.0, torch.tensor([0.0, 0.19, 0.21, 0.69, 0.71, 1.0], dtype=torch.float64))
    assert drawn.tolist() == [0, 0, 1, 1, 3, 3]
    torch.testing.assert_close(logps.exp(), torch.tensor([0.2, 0.2, 0.5, 0.5, 0.3, 0.3]))


def test_a_stop_id_ends_an_answer_and_is_its_last_token_but_not_its_text(tmp_path: Path) -> None:
    torch.manual_seed(2)
    answers = answers_of(eager_to_stop(tiny.llama()), tmp_path, times=4)
    stops = set(tiny.tokenizer().stop_ids)
    for answer in answers:
        assert (answer.tokens[-1] in stops) == answer.finished
        assert not stops & set(answer.tokens[:-1])
        assert "<|im_end|>" not in answer.text
        assert answer.finished or len(answer.tokens) == 12


def test_draws_follow_the_softmax_at_the_temperature() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(30_000, 3)
    drawn, logps = draw(logits, 0.5, torch.rand(30_000, dtype=torch.float64))
    wanted = torch.tensor([0.0, 2.0, 4.0]).softmax(0)
    torch.testing.assert_close(drawn.bincount().float() / 30_000, wanted, atol=0.01, rtol=0)
    torch.testing.assert_close(logps, wanted.log()[drawn])


def test_entropies_are_those_of_the_distribution_and_zero_behind_the_end(tmp_path: Path) -> None:
    torch.manual_seed(2)
    model = eager_to_stop(tiny.llama())
    experience = gathered(answers_of(model, tmp_path))
    found = likelihood(model, experience, temperature=0.7)
    row, action = 1, int(experience.there[1].sum()) - 1
    logits = model(experience.tokens)[row, experience.places[row, action]] / 0.7
    by_hand = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(found.entropies[row, action], by_hand)
    assert not found.entropies[~experience.there].any()


def test_parts_of_an_experience_say_what_the_whole_says(tmp_path: Path) -> None:
    torch.manual_seed(2)
    model = eager_to_stop(tiny.llama())
    experience = gathered(answers_of(model, tmp_path, times=2))
    whole = likelihood(model, experience)
    for rows in (1, 3, 99):
        parted = in_parts(lambda some: likelihood(model, some), experience, rows=rows)
        torch.testing.assert_close(parted[0], whole.logps, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(joined([experience.select([3, 1]), experience.select([0])]).logps[:, :1],
                               experience.select([3, 1, 0]).logps[:, :1])  # fmt: skip


def test_gradients_are_the_same_with_the_logits_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(2)
    model, found = tiny.llama(), []
    experience = gathered(answers_of(model, tmp_path, times=2))
    for at_once in (512, 7):
        monkeypatch.setattr("luban.alignment.likelihood.ACTIONS_AT_ONCE", at_once)
        told = likelihood(model, experience)
        (told.logps.sum() + 2 * told.entropies.sum()).backward()
        found.append(
            [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
        )
        model.zero_grad()
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_truncated_answers_can_be_left_without_actions(tmp_path: Path) -> None:
    torch.manual_seed(2)
    answers = answers_of(eager_to_stop(tiny.llama()), tmp_path, times=2)
    learnable = only_finished(gathered(answers), answers).learnable()
    assert len(learnable) == sum(answer.finished for answer in answers)


def test_a_sampler_that_is_not_the_trainer_is_told_and_bounded(tmp_path: Path) -> None:
    torch.manual_seed(2)
    model = tiny.llama()
    answers = answers_of(model, tmp_path)
    experience = gathered(answers)
    assert difference(experience, answers, bound=0.01) == {
        "rollout/difference": 0,
        "rollout/difference_max": 0,
    }
    experience.logps[3] += 0.5
    told = difference(experience, answers, bound=0.6)
    assert told["rollout/difference"] == pytest.approx(0.5 / 8, rel=1e-3)
    with pytest.raises(TrainingError, match=r"prompts\.jsonl:4: sampler and trainer differ by 0\.500 nats"):
        difference(experience, answers, bound=0.1)
