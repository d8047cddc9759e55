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

    @property
    def adds_bos(self) -> bool:
        """Whether models of this vocabulary saw `bos_id` at the start of plain text (LLaMA: yes, GPT-2: no)."""
        ...

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Every id that ends a generation: of a raw document (`eos_id`) and of a chat answer."""
        ...

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
        needs_mask: bool = False,
    ) -> tuple[list[int], list[bool]]:
        """Ids of a conversation through the chat template, and which of them the assistant wrote.

        The mask is True exactly inside `{% generation %}` blocks (the assistant's words and its end token).
        A template without such blocks gives an all-False mask, unless `needs_mask`: then the assistant's part
        is what an answered conversation has beyond its generation prompt, where that is provably exact.
        Raises TokenizerError if there is no template, it fails on these messages, or the mask is not exact.
        """
        ...
