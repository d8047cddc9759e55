"""From the messages of a request to what a chat template reads."""

from __future__ import annotations

from typing import Any

import orjson

from luban.serving.faults import ServingError
from luban.serving.protocol import ChatMessage, ChatRequest, PastCall

ROLES = {"developer": "system"}
"""OpenAI's newer word for what templates know by the older one."""


def conversation(asked: ChatRequest) -> list[dict[str, Any]]:
    """The messages with one text each, and calls with their arguments as values, as templates expect them."""
    return [_message(message, place) for place, message in enumerate(asked.messages)]


def tool_schemas(asked: ChatRequest) -> list[dict[str, Any]] | None:
    """The tools as a template shows them; none where none may be called."""
    if not asked.tools or asked.tool_choice == "none":
        return None
    return [tool.model_dump(exclude_none=True) for tool in asked.tools]


def _message(message: ChatMessage, place: int) -> dict[str, Any]:
    content = message.content
    if content is None and not message.tool_calls:
        param = f"messages.{place}.content"
        raise ServingError(f"'{param}': a message without words or calls", param=param, code="invalid_value")
    text = content if isinstance(content, str) else "".join(part.text for part in content or [])
    row: dict[str, Any] = {"role": ROLES.get(message.role, message.role), "content": text}
    if message.name is not None:
        row["name"] = message.name
    if message.tool_call_id is not None:
        row["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        row["tool_calls"] = [_call(call, place) for call in message.tool_calls]
    return row


def _call(call: PastCall, place: int) -> dict[str, Any]:
    try:
        arguments = orjson.loads(call.function.arguments)
    except orjson.JSONDecodeError as error:
        param = f"messages.{place}.tool_calls"
        what = f"'{param}': the arguments of '{call.function.name}' are not JSON: {error.msg}"
        raise ServingError(what, param=param, code="invalid_value") from None
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.function.name, "arguments": arguments},
    }
