"""Proxy-tuning: a base steered by what tuning did to a small model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from luban.errors import ConfigError, ModelError
from luban.inference.complete import Config, run
from luban.inference.local import LocalLM
from luban.inference.proxy import Proxied, proxied
from luban.lm import Sampling
from luban.training.checkpoint import write_model_folder
from tests import tiny
from tests.inference.test_generate import loud

GREEDY = Sampling(temperature=0, max_tokens=8, logprobs=True)
PROMPTS = ["The quick", "a", "What is the capital of France?"]


def model(seed: int, family: Any = tiny.llama, **changes: Any) -> Any:
    torch.manual_seed(seed)
    return loud(family(**changes)).eval()


def lm(made: Any, name: str = "model") -> LocalLM:
    return LocalLM(made, tiny.tokenizer(), name=name)


def fond_of(made: Any, token: int, much: float) -> Any:
    """`made` whose head is moved towards one token, as if it had been tuned to say it: along its mean state."""
    with torch.no_grad():
        state = made.hidden(torch.arange(60)[None]).mean((0, 1))
        made.head.weight[token] += much * state / state.norm() ** 2
    return made


def tokens() -> Tensor:
    return torch.randint(0, 384, (2, 9), generator=torch.Generator().manual_seed(1))


def test_the_logits_are_the_bases_plus_alpha_times_the_difference() -> None:
    base, expert, anti = model(1), model(2, tiny.gpt2), model(3, tiny.gpt2)
    steered = Proxied(base, expert, anti, alpha=0.5)
    expected = base(tokens()) + 0.5 * (expert(tokens()) - anti(tokens()))
    with torch.no_grad():
        torch.testing.assert_close(steered.head(steered.hidden(tokens())), expected.detach())


@pytest.mark.parametrize(
    "sampling", [GREEDY, Sampling(max_tokens=8, seed=3), Sampling(max_tokens=8, beams=3)]
)
def test_an_expert_equal_to_its_anti_expert_changes_nothing(sampling: Sampling) -> None:
    base, small = lm(model(1), "base"), lm(model(2, tiny.gpt2), "small")
    steered = proxied(base, small, small)
    assert steered.name == "base as small"
    assert steered.generate(PROMPTS, sampling) == base.generate(PROMPTS, sampling)
    assert steered.score([("The", " quick"), ("", "fox")]) == base.score([("The", " quick"), ("", "fox")])


def test_what_is_generated_turns_to_what_the_expert_was_tuned_for() -> None:
    base, anti = lm(model(1)), lm(model(2, tiny.gpt2, tied=False))
    expert = lm(fond_of(model(2, tiny.gpt2, tied=False), 77, 30.0))
    said = [
        sum(
            made.tokens.count(77)
            for made in proxied(base, expert, anti, alpha=alpha).generate(PROMPTS, GREEDY)
        )
        for alpha in (0.0, 1.0, -1.0)
    ]
    assert said[0] == sum(made.tokens.count(77) for made in base.generate(PROMPTS, GREEDY)) == 0
    assert said[1] > 8
    assert said[2] == 0


def test_rows_of_a_batch_are_the_same_alone_and_their_probabilities_those_of_the_sum() -> None:
    base, expert, anti = (lm(model(seed)) for seed in (1, 2, 3))
    steered = proxied(base, expert, anti)
    together = steered.generate(PROMPTS, GREEDY)
    for prompt, made in zip(PROMPTS, together, strict=True):
        (alone,) = steered.generate([prompt], GREEDY)
        assert made.tokens == alone.tokens
        whole = torch.tensor([[*tiny.tokenizer().encode(prompt), *made.tokens]])
        with torch.no_grad():
            logits = base.model(whole) + expert.model(whole) - anti.model(whole)
        logps = logits[0, -len(made.tokens) - 1 : -1].log_softmax(-1)
        torch.testing.assert_close(
            torch.tensor(made.logps), logps[range(len(made.tokens)), made.tokens], atol=1e-4, rtol=1e-4
        )


def test_padded_vocabularies_differ_in_width_only() -> None:
    base, small, smaller = model(1, vocab=400), model(2), model(3, vocab=392)
    steered = Proxied(base, small, smaller)
    with torch.no_grad():
        logits = steered.head(steered.hidden(tokens()))
        change = small(tokens()) - smaller(tokens())[..., :384]
        assert torch.equal(logits[..., 384:], base(tokens())[..., 384:])
        torch.testing.assert_close(logits[..., :384], base(tokens())[..., :384] + change)


def test_a_bfloat16_base_and_a_float32_expert_work_together() -> None:
    steered = proxied(lm(model(1).bfloat16()), lm(model(2)), lm(model(2)))
    assert steered.generate(PROMPTS, GREEDY) == lm(model(1).bfloat16()).generate(PROMPTS, GREEDY)


def test_models_of_other_vocabularies_or_kinds_are_refused() -> None:
    base = lm(model(1))
    other = LocalLM(model(2), tiny.sentencepiece_like(), name="other")
    with pytest.raises(ModelError, match=r"vocabularies: '.+' is \S+ in other and \S+ in base"):
        proxied(lm(model(1), "base"), other, other)
    with pytest.raises(ModelError, match=r"bert: .*decoders"):
        proxied(base, lm(tiny.bert(), "bert"), base)


def test_the_command_takes_three_folders(tmp_path: Path) -> None:
    from luban.inference.local import open_lm

    for seed in (1, 2, 3):
        write_model_folder(tmp_path / str(seed), model(seed), tiny.tokenizer())
    folders = [str(tmp_path / str(seed)) for seed in (1, 2, 3)]
    words = {"prompt": ("The quick",), "temperature": 0.0, "max_tokens": 4, "threads": 1}

    def text(**more: Any) -> str:
        return run(Config(model=folders[0], **words, **more), open_lm)["generations"][0]["text"]

    plain = text()
    assert text(expert=folders[1], anti_expert=folders[1]) == plain
    assert text(expert=folders[1], anti_expert=folders[2]) != plain
    assert text(expert=folders[1], anti_expert=folders[2], alpha=0.0) == plain
    for half in ({"expert": folders[1]}, {"alpha": 2.0}):
        with pytest.raises(ConfigError, match="both --expert and --anti-expert"):
            text(**half)
