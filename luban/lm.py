"""What anyone may ask of a language model: generate, chat, stream, score.

Evaluation, applications and the terminal know models only through this page. The local engine, an HTTP
client and a three-line fake in a test all satisfy `LM`. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol, TypedDict

from annotated_types import Ge, Gt, Le


class Message(TypedDict, total=False):
    """One turn of a conversation; `role` and `content` are always there."""

    role: str  # "system", "user", "assistant" or "tool"
    content: str
    name: str
    tool_calls: list[dict[str, Any]]


Conversation = Sequence[Message]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen, and when to stop. Names and meanings as in the OpenAI API and vLLM."""

    max_tokens: Annotated[int, Ge(1)] = 128
    """Stop after this many new tokens."""
    temperature: Annotated[float, Ge(0)] = 0.7
    """Divide logits by this; 0 takes the likeliest token (greedy)."""
    top_k: Annotated[int, Ge(0)] = 0
    """Keep only the k likeliest tokens; 0 keeps all."""
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    """Keep the smallest set of likeliest tokens whose probability reaches this."""
    min_p: Annotated[float, Ge(0), Le(1)] = 0.0
    """Drop tokens less likely than this share of the likeliest one."""
    typical_p: Annotated[float, Gt(0), Le(1)] = 1.0
    """Keep the smallest set of tokens nearest to the expected surprise whose probability reaches this; 1 keeps all."""
    repetition_penalty: Annotated[float, Gt(0)] = 1.0
    """Divide positive (multiply negative) logits of tokens seen in prompt or answer by this; 1 is off."""
    presence_penalty: float = 0.0
    """Subtract this from the logit of every token already in the answer."""
    frequency_penalty: float = 0.0
    """Subtract this from a token's logit for each time it is already in the answer."""
    no_repeat_ngram: Annotated[int, Ge(0)] = 0
    """Let no run of this many tokens come twice in prompt and answer; 0 is off."""
    logit_bias: Mapping[Annotated[int, Ge(0)], Annotated[float, Ge(-100), Le(100)]] = field(
        default_factory=dict
    )
    """Add to the logits of these token ids; -100 as good as rules one out, 100 as good as forces it."""
    allowed_ids: tuple[Annotated[int, Ge(0)], ...] = ()
    """Draw from these token ids only; none allows all."""
    bad_words: tuple[str, ...] = ()
    """Texts that never come in the answer as the tokenizer writes them, alone or after a space."""
    stop: tuple[str, ...] = ()
    """End before the first of these strings, also where it spans token borders."""
    stop_ids: tuple[Annotated[int, Ge(0)], ...] = ()
    """End at these token ids too, besides the model's own; their text is not part of the answer."""
    min_tokens: Annotated[int, Ge(0)] = 0
    """Rule out all token ids that end the answer, and pass over stop strings, until it has this many tokens."""
    seed: Annotated[int, Ge(0)] | None = None
    """Seed of this request's own random stream; none takes the process's."""
    logprobs: bool = False
    """Return each new token's log-probability under the model itself, before penalties and temperature."""
    skip_special: bool = True
    """Leave special tokens out of the text, as those are before which some models write calls of tools."""
    ignore_eos: bool = False
    """Go on after the end-of-sequence token (for measuring speed)."""
    beams: Annotated[int, Ge(1)] = 1
    """Search with so many beams for the likeliest answer instead of drawing one; temperature and seed then do
    nothing, and what changes or cuts the odds of tokens, stop, stop_ids and min_tokens are refused."""
    length_penalty: float = 1.0
    """Compare the answers of several beams by log-probability over length to this power; more favours long ones."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One finished answer. `logps` holds natural logarithms, one per token, if asked for, else nothing."""

    text: str
    tokens: list[int]
    logps: list[float]
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int


@dataclass(frozen=True, kw_only=True)
class Score:
    """How likely a continuation is after its context: natural log-probability per continuation token."""

    logps: list[float]
    greedy: bool  # whether every token was the likeliest one

    @property
    def total(self) -> float:
        return sum(self.logps)


class LM(Protocol):
    """A language model as seen from outside: text in, text or log-probabilities out.

    All calls raise PromptError for input longer than the window. Lists come back in the order of the input.
    """

    name: str

    def generate(self, prompts: Sequence[str], sampling: Sampling) -> list[Generation]: ...

    def chat(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[Generation]: ...

    def stream(self, conversation: Conversation, sampling: Sampling) -> Iterator[str]:
        """Pieces of one chat answer as they come, never with a broken character.

        A generator may return the answer's finish reason at its end.
        """
        ...

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[Score]:
        """For each (context, continuation): its log-probabilities.

        An empty context scores a whole document from its beginning; a document longer than the window is
        scored in windows that do not overlap, each from its own beginning.
        """
        ...


OpenLM = Callable[[str], LM]
"""From a model folder (or a URL) to the model; the command line passes it in."""
