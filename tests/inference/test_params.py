"""vLLM's names in, this house's sampling and constraint out; what makes no sense is refused at once."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from luban import SamplingParams
from luban.errors import ConfigError, PromptError
from luban.inference.constrain import Constraint
from luban.lm import Sampling


def test_defaults_are_those_of_vllm() -> None:
    assert SamplingParams().sampling == Sampling(max_tokens=16, temperature=1.0)
    assert SamplingParams().constraint is None


def test_every_name_is_put_into_the_words_of_this_house() -> None:
    params = SamplingParams(
        temperature=0.5,
        top_p=0.9,
        top_k=-1,
        min_p=0.1,
        typical_p=0.8,
        presence_penalty=0.1,
        frequency_penalty=0.2,
        repetition_penalty=1.1,
        no_repeat_ngram_size=3,
        logit_bias={5: -1},
        allowed_token_ids=[5, 6],
        bad_words=["x"],
        seed=4,
        stop="END",
        stop_token_ids=[9],
        ignore_eos=True,
        max_tokens=7,
        min_tokens=2,
        skip_special_tokens=False,
        logprobs=0,
    )
    assert params.sampling == Sampling(
        temperature=0.5,
        top_p=0.9,
        top_k=0,
        min_p=0.1,
        typical_p=0.8,
        presence_penalty=0.1,
        frequency_penalty=0.2,
        repetition_penalty=1.1,
        no_repeat_ngram=3,
        logit_bias={5: -1.0},
        allowed_ids=(5, 6),
        bad_words=("x",),
        seed=4,
        stop=("END",),
        stop_ids=(9,),
        ignore_eos=True,
        max_tokens=7,
        min_tokens=2,
        skip_special=False,
        logprobs=True,
    )


@pytest.mark.parametrize(
    ("guide", "constraint"),
    [
        ({"guided_regex": "a+"}, Constraint(kind="regex", value="a+")),
        ({"guided_choice": ["a", "b"]}, Constraint(kind="choice", value='["a", "b"]')),
        ({"guided_json": {"type": "null"}}, Constraint(kind="json_schema", value='{"type": "null"}')),
        ({"guided_json": '{"type":"null"}'}, Constraint(kind="json_schema", value='{"type":"null"}')),
        ({"guided_grammar": 'start: "a"'}, Constraint(kind="grammar", value='start: "a"')),
        ({"guided_json_object": True}, Constraint(kind="json_object")),
    ],
)
def test_a_guide_is_a_constraint(guide: dict[str, Any], constraint: Constraint) -> None:
    assert SamplingParams(**guide).constraint == constraint


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"temperatur": 1}, TypeError, "temperatur"),
        ({"temperature": -1}, ConfigError, "temperature"),
        ({"top_k": -2}, ConfigError, "top_k"),
        ({"logit_bias": {3: 101}}, ConfigError, "logit_bias"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, PromptError, "guided_regex and guided_choice"),
        ({"logprobs": -1}, PromptError, "logprobs is -1"),
        ({"prompt_logprobs": -1}, PromptError, "prompt_logprobs is -1"),
        ({"logprobs": 1, "best_of": 2}, PromptError, "chosen among several"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SamplingParams(**values)


def test_the_package_and_its_params_come_without_torch() -> None:
    code = "import luban, sys; luban.SamplingParams(n=2); assert 'torch' not in sys.modules; luban.LLM"
    code += "; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_has_no_other_names() -> None:
    import luban

    with pytest.raises(AttributeError, match="no attribute 'LLMs'"):
        _ = luban.LLMs
