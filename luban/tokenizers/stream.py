"""Text of a token stream as it grows: a character appears when its last byte has come, never in halves."""

from __future__ import annotations

from luban.tokenizers.base import Tokenizer

BROKEN = "\N{REPLACEMENT CHARACTER}"


class StreamDecoder:
    """Turns ids, pushed one by one, into pieces of text; all pieces together are `decode` of all ids.

    A window of recent ids is decoded again at each push. Only a U+FFFD at its very end can still become a
    character, so all before it is final. The window restarts at a character's border and keeps the ids of the
    piece before it, because some vocabularies drop the space of a text's first token.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True) -> None:
        self._tokenizer, self._skip_special = tokenizer, skip_special
        self._window: list[int] = []
        self._shown = 0  # characters of the window's text that were given out
        self._before = 0  # ids of the window that belong to the piece before

    def push(self, token: int) -> str:
        """The text that `token` completes; often a word, sometimes nothing."""
        self._window.append(token)
        text = self._decode(self._window)
        whole = text.removesuffix(BROKEN)
        piece = whole[self._shown :]
        self._shown = len(whole)
        if piece and whole == text:
            self._restart()
        return piece

    def finish(self) -> str:
        """What is still held back: a character whose rest never came, as U+FFFD. Then all starts anew."""
        rest = self._decode(self._window)[self._shown :]
        self._window, self._shown, self._before = [], 0, 0
        return rest

    def _restart(self) -> None:
        self._window = self._window[self._before :]
        self._before = len(self._window)
        self._shown = len(self._decode(self._window))

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special=self._skip_special)
