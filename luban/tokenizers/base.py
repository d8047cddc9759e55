"""What the rest of the house knows of a tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Tokenizer(Protocol):
    """Text to ids and back. `encode` adds no special tokens: templates and shards write them on purpose."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest id, added tokens included."""
        ...

    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    chat_template: str | None
    special_tokens: Mapping[str, int]

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; special tokens spelled out in it are encoded as ordinary text, never as specials."""
        ...

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """The text of `ids`; invalid UTF-8 becomes U+FFFD."""
        ...

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
    ) -> tuple[list[int], list[bool]]:
        """Ids of a conversation through the chat template, and which of them the assistant wrote.

        The mask is True exactly inside `{% generation %}` blocks (the assistant's words and its end token).
        Raises TokenizerError if there is no template or it fails on these messages.
        """
        ...
