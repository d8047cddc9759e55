"""`SamplingParams`: what to draw and to tell, under the names and with the defaults that vLLM's users know.

`sampling` and `constraint` are the same in the words of this house; `llm.py` puts them into the engine's requests.
Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from luban.config import build
from luban.errors import PromptError
from luban.inference.constrain import Constraint
from luban.lm import Sampling

GUIDES = ("guided_json", "guided_regex", "guided_choice", "guided_grammar", "guided_json_object")


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How answers to a prompt are drawn, when they end and what is told of them."""

    n: int = 1
    """How many answers to give."""
    best_of: int | None = None
    """Write so many and give the `n` of highest mean log-probability."""
    temperature: float = 1.0
    """Divide logits by this; 0 takes the likeliest token."""
    top_p: float = 1.0
    """Keep the smallest set of likeliest tokens whose probability reaches this."""
    top_k: int = 0
    """Keep only the k likeliest tokens; 0 and -1 keep all."""
    min_p: float = 0.0
    """Drop tokens less likely than this share of the likeliest one."""
    typical_p: float = 1.0
    """Keep the smallest set of tokens nearest to the expected surprise whose probability reaches this."""
    presence_penalty: float = 0.0
    """Subtract this from the logit of every token already in the answer."""
    frequency_penalty: float = 0.0
    """Subtract this from a token's logit for each time it is already in the answer."""
    repetition_penalty: float = 1.0
    """Divide positive (multiply negative) logits of tokens seen in prompt or answer by this."""
    no_repeat_ngram_size: int = 0
    """Let no run of this many tokens come twice in prompt and answer; 0 is off."""
    logit_bias: Mapping[int, float] | None = None
    """Add to the logits of these token ids, -100 to 100."""
    allowed_token_ids: Sequence[int] | None = None
    """Draw from these token ids only."""
    bad_words: Sequence[str] | None = None
    """Texts that never come in the answer."""
    seed: int | None = None
    """Answer i draws as a request with seed + i would; none takes the process's random stream."""
    stop: str | Sequence[str] | None = None
    """End before the first of these strings."""
    stop_token_ids: Sequence[int] | None = None
    """End at these token ids too."""
    ignore_eos: bool = False
    """Go on after the end-of-sequence token."""
    max_tokens: int = 16
    """Stop after this many new tokens."""
    min_tokens: int = 0
    """Do not stop before this many."""
    skip_special_tokens: bool = True
    """Leave special tokens out of the text."""
    logprobs: int | None = None
    """Tell each new token's log-probability, and those of so many of the likeliest in its place."""
    prompt_logprobs: int | None = None
    """The same of the prompt's tokens."""
    guided_json: str | Mapping[str, Any] | None = None
    """A JSON schema that the answer keeps to; of the guides, one at most can be given."""
    guided_regex: str | None = None
    """A regular expression that the whole answer matches."""
    guided_choice: Sequence[str] | None = None
    """Texts of which the answer is one."""
    guided_grammar: str | None = None
    """A grammar in llguidance's Lark dialect."""
    guided_json_object: bool = False
    """Any JSON object."""

    def __post_init__(self) -> None:
        """Raises PromptError for a value that only makes sense without another, ConfigError for one out of range."""
        given = [name for name in GUIDES if getattr(self, name)]
        if len(given) > 1:
            raise PromptError(f"{' and '.join(given)} are given together", where="guides", hint="one of them")
        for name in ("logprobs", "prompt_logprobs"):
            if (getattr(self, name) or 0) < 0:
                raise PromptError(f"{name} is {getattr(self, name)}, not 0 or more", where="SamplingParams")
        if self.logprobs and self.best_of and self.best_of > self.n:
            what = "the likeliest tokens are not told of answers that are chosen among several"
            raise PromptError(what, where="logprobs", hint="logprobs=0, or no best_of")
        _ = self.sampling, self.constraint  # both check their values

    @property
    def sampling(self) -> Sampling:
        """How one answer is drawn."""
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        same = ("temperature", "top_p", "min_p", "typical_p", "presence_penalty", "frequency_penalty", "seed")
        same += ("repetition_penalty", "ignore_eos", "max_tokens", "min_tokens")
        values = {name: getattr(self, name) for name in same}
        values |= {
            "top_k": max(self.top_k, 0) if self.top_k >= -1 else self.top_k,
            "no_repeat_ngram": self.no_repeat_ngram_size,
            "logit_bias": dict(self.logit_bias or {}),
            "allowed_ids": tuple(self.allowed_token_ids or ()),
            "bad_words": tuple(self.bad_words or ()),
            "stop": stop,
            "stop_ids": tuple(self.stop_token_ids or ()),
            "skip_special": self.skip_special_tokens,
            "logprobs": self.logprobs is not None,
        }
        return build(Sampling, values, where="SamplingParams")

    @property
    def constraint(self) -> Constraint | None:
        """The form of an answer, if one is asked for."""
        if self.guided_json:
            return Constraint.json_schema(self.guided_json)
        if self.guided_choice:
            return Constraint.choice(self.guided_choice)
        if self.guided_regex:
            return Constraint(kind="regex", value=self.guided_regex)
        if self.guided_grammar:
            return Constraint(kind="grammar", value=self.guided_grammar)
        return Constraint(kind="json_object") if self.guided_json_object else None
