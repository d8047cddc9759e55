"""What callers get, as OpenAI's clients read it; the page of the API is made from these."""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import NotRequired, TypedDict  # noqa: UP035 - pydantic reads no other below Python 3.12

from luban import __version__

FINGERPRINT = f"luban-{__version__}"
FinishReason = Literal["stop", "length", "tool_calls"]


class Usage(TypedDict):
    """Tokens; drawn ones include the token that ended an answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionLogprobs(TypedDict):
    """Of each token: itself, its natural log-probability, the likeliest ones in its place, where it begins."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionChoice(TypedDict):
    """One continuation, or a piece of it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class Completion(TypedDict):
    """Continuations, or a chunk of them."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: NotRequired[Usage | None]


class OneLogprob(TypedDict):
    """A token with its natural log-probability; `bytes` where its text is a part of a character, too."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(OneLogprob):
    """A token of an answer, and the likeliest ones in its place."""

    top_logprobs: list[OneLogprob]


class ChatLogprobs(TypedDict):
    content: list[TokenLogprob]
    refusal: None


class ToolFunction(TypedDict, total=False):
    """`arguments` is JSON text."""

    name: str
    arguments: str


class ToolCall(TypedDict, total=False):
    """A call, or in a stream a piece of the call of this index."""

    index: int
    id: str
    type: Literal["function"]
    function: ToolFunction


class ChatMessageOut(TypedDict):
    """The assistant's turn."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: NotRequired[list[ToolCall]]


class ChatChoice(TypedDict):
    """One answer."""

    index: int
    message: ChatMessageOut
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class Chat(TypedDict):
    """Answers to a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class Delta(TypedDict, total=False):
    """What is new of an answer."""

    role: Literal["assistant"]
    content: str
    tool_calls: list[ToolCall]


class DeltaChoice(TypedDict):
    """A piece of one answer."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatChunk(TypedDict):
    """A chunk of a stream."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[DeltaChoice]
    usage: NotRequired[Usage | None]


class InputUsage(TypedDict):
    """Tokens that were read."""

    prompt_tokens: int
    total_tokens: int


class Embedding(TypedDict):
    """A vector: numbers, or their float32 bytes (little-endian) in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Embeddings(TypedDict):
    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: InputUsage


class PairScore(TypedDict):
    """How likely a continuation is: natural log-probability per token, their sum, whether all were the likeliest."""

    object: Literal["score"]
    index: int
    logprobs: list[float]
    total: float
    greedy: bool


class Scores(TypedDict):
    object: Literal["list"]
    model: str
    data: list[PairScore]
    usage: InputUsage


class Model(TypedDict):
    """A model that is served; `max_model_len` is its window in tokens, as vLLM tells it."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int


class Models(TypedDict):
    object: Literal["list"]
    data: list[Model]


class Health(TypedDict):
    status: Literal["ok", "stopping", "stopped"]


class Fault(TypedDict):
    """What went wrong, the field at fault, and a word for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class Faulty(TypedDict):
    error: Fault


def usage_of(prompt_tokens: int, completion_tokens: int) -> Usage:
    """The three numbers."""
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}


def answer(name: str, kind: str, model: str, created: int, **parts: Any) -> Any:
    """An answer, or a chunk of one: what all of one request begin with, and its own `parts`."""
    head = {"id": name, "object": kind, "created": created, "model": model, "system_fingerprint": FINGERPRINT}
    return head | parts
