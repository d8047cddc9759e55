"""An assistant's turn as its text grows: words, and calls of tools where the request has any."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from luban.inference.constrain import Constraint
from luban.inference.tool_choice import must_call
from luban.inference.tools import Call, format_of, parser_of
from luban.serving.answers import ChatChoice, Delta, DeltaChoice, ToolCall
from luban.serving.faults import ServingError
from luban.serving.messages import tool_schemas
from luban.serving.protocol import ChatRequest, NamedTool
from luban.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class TurnPlan:
    """What all answers to one conversation have in common: their form, and how calls stand in their text."""

    constraint: Constraint | None = None
    calls: str | None = None
    """The format of calls, of `inference.tools`; None where nothing can be called."""
    several: bool = True
    """Whether an answer may call more than once; if not, what follows the first call is left out."""


def plan_turns(asked: ChatRequest, constraint: Constraint | None, tokenizer: Tokenizer) -> TurnPlan:
    """How the answers are written and read. Raises ServingError for tools that cannot be had or contradict the rest."""
    tools = tool_schemas(asked)
    if not tools:
        if asked.tool_choice not in (None, "none", "auto"):
            raise ServingError("'tool_choice' needs tools", param="tool_choice", code="invalid_value")
        return TurnPlan(constraint)
    if constraint is not None:
        what = "'tools' with a form for the answer: a call would not have that form"
        raise ServingError(what, param="tools", code="unsupported_parameter")
    form = format_of(tokenizer.chat_template)
    if form is None:
        what = "'tools': the model's chat template shows no calls in a format that is known here"
        raise ServingError(what, param="tools", code="unsupported_parameter")
    choice, several = asked.tool_choice, asked.parallel_tool_calls
    if choice in (None, "auto"):
        return TurnPlan(None, form, several)
    name = choice.function.name if isinstance(choice, NamedTool) else None
    specials = tokenizer.special_tokens
    return TurnPlan(
        must_call(tools, form, special_tokens=specials, name=name, several=several), form, several
    )


class Turn:
    """One answer; `push` its text as it comes."""

    def __init__(self, plan: TurnPlan) -> None:
        self.called = 0
        """Calls so far."""
        self._parser = parser_of(plan.calls) if plan.calls else None
        self._several = plan.several

    def push(self, text: str, *, last: bool) -> list[Delta]:
        """What is new to the caller; with the `last` text also what was held back."""
        if self._parser is None:
            return [{"content": text}] if text else []
        said = [*self._parser.push(text), *(self._parser.finish() if last else [])]
        return [self._delta(part) for part in said if self._several or not self.called]

    def _delta(self, part: str | Call) -> Delta:
        if isinstance(part, str):
            return {"content": part}
        self.called += 1
        call: ToolCall = {
            "index": self.called - 1,
            "id": f"call_{secrets.token_hex(12)}",
            "type": "function",
            "function": {"name": part.name, "arguments": part.arguments},
        }
        return {"tool_calls": [call]}


def join(choices: dict[int, ChatChoice], piece: DeltaChoice) -> None:
    """Put `piece` behind what is known of its answer."""
    known = choices.setdefault(piece["index"], _nothing_yet(piece["index"]))
    message, delta, told = known["message"], piece["delta"], piece["logprobs"]
    if words := delta.get("content"):
        message["content"] = (message["content"] or "") + words
    for call in delta.get("tool_calls", []):
        message.setdefault("tool_calls", []).append({**call})
    if told is not None:
        before = known["logprobs"]["content"] if known["logprobs"] else []
        known["logprobs"] = {"content": [*before, *told["content"]], "refusal": None}
    known["finish_reason"] = piece["finish_reason"]
    if piece["finish_reason"] and "tool_calls" not in message:
        message["content"] = message["content"] or ""


def _nothing_yet(index: int) -> ChatChoice:
    return {
        "index": index,
        "message": {"role": "assistant", "content": None, "refusal": None},
        "logprobs": None,
        "finish_reason": None,
    }
