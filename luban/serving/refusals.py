"""Fields of OpenAI's API and vLLM's that are known and not in `protocol.py`: refused with a reason, or without effect.

A refused field may still be sent with the value that asks for nothing. docs/serving.md has the same table; a test
compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Refusal:
    """Why a field is not honoured, and the values with which it asks for nothing (null always does)."""

    reason: str
    neutral: tuple[Any, ...] = ()


TEXT_ONLY = "this server reads and writes text only"
NEWER_NAME = "an older name; send tools and tool_choice"
CHATS: Mapping[str, Refusal] = {
    "audio": Refusal(TEXT_ONLY),
    "modalities": Refusal(TEXT_ONLY, (["text"],)),
    "prediction": Refusal("predicted outputs are not used"),
    "reasoning_effort": Refusal("the model has no efforts of reasoning to choose from", ("none",)),
    "verbosity": Refusal("the model has no verbosity to choose from", ("medium",)),
    "web_search_options": Refusal("this server has no web search"),
    "moderation": Refusal("this server has no moderation model"),
    "functions": Refusal(NEWER_NAME),
    "function_call": Refusal(NEWER_NAME),
    "echo": Refusal("only completions give back what was asked", (False,)),
    "add_generation_prompt": Refusal("an answer is always called for", (True,)),
    "continue_final_message": Refusal("an answer begins anew", (False,)),
    "chat_template": Refusal("the model's own template is used"),
    "chat_template_kwargs": Refusal("the model's own template is used as it is", ({},)),
}
WRITING: Mapping[str, Refusal] = {
    "use_beam_search": Refusal("the engine draws answers and does not search", (False,)),
    "length_penalty": Refusal("it is of beam search", (1, 1.0)),
    "include_stop_str_in_output": Refusal("a stop string is never part of an answer", (False,)),
    "prompt_logprobs": Refusal("send echo and logprobs to /v1/completions"),
    "add_special_tokens": Refusal("what the model saw in training is put before a text", (True,)),
    "priority": Refusal("the engine's policy says who goes first", (0,)),
    "truncate_prompt_tokens": Refusal("a prompt is never cut silently"),
    "guided_decoding_backend": Refusal("there is one kind of guided decoding"),
    "guided_whitespace_pattern": Refusal("write the spaces that you want into a grammar"),
    "structured_outputs": Refusal(
        "send guided_json, guided_regex, guided_choice, guided_grammar or response_format"
    ),
}
REFUSED: Mapping[str, Mapping[str, Refusal]] = {
    "CompletionRequest": WRITING | {"suffix": Refusal("text is continued, not filled in", ("",))},
    "ChatRequest": WRITING | CHATS,
    "EmbeddingRequest": {"dimensions": Refusal("vectors are of the model's own size")},
    "ScoreRequest": {},
}
"""By the name of the request's model."""

HARMLESS: Mapping[str, str] = {
    "user": "nothing is kept by user",
    "metadata": "nothing is stored",
    "store": "nothing is stored",
    "safety_identifier": "nothing is kept by user",
    "service_tier": "there is one tier",
    "prompt_cache_key": "equal beginnings are always found",
    "prompt_cache_options": "equal beginnings are always found",
    "prompt_cache_retention": "equal beginnings are always found",
}
"""Accepted without effect on the answer, and why that is right."""
