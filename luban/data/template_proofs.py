"""What a chat template must keep for a tuned model to work, put to the proof on real conversations.

A template that breaks one of these trains without complaint and answers badly: the loss cannot tell.
"""

from __future__ import annotations

from luban.data.conversations import Example, ends_in_stop, learnt_runs
from luban.data.row_formats import Row
from luban.errors import TokenizerError
from luban.tokenizers.files import FileTokenizer

PROVEN = 16
"""So many conversations are put to the proof: each renders once per answer."""


class TemplateProofs:
    """Collects what holds on every conversation, and where each proof first failed."""

    def __init__(self, tokenizer: FileTokenizer) -> None:
        self._tokenizer = tokenizer
        self._proven = 0
        self.holds: dict[str, bool] = {}
        """Proof to whether it held on all; empty while there was no conversation."""
        self.failed_at: dict[str, str] = {}
        """File and line where a proof first failed."""

    def add(self, row: Row, example: Example) -> None:
        """Prove the template on a conversation, if it is whole and one of the first `PROVEN`."""
        if not row.messages or example.truncated or self._proven == PROVEN:
            return
        self._proven += 1
        for name, holds in prove(self._tokenizer, row, example).items():
            self.holds[name] = self.holds.get(name, True) and holds
            if not holds:
                self.failed_at.setdefault(name, row.where)


def prove(tokenizer: FileTokenizer, row: Row, example: Example) -> dict[str, bool]:
    """What holds of the chat template on this conversation.

    `generation_blocks`: the template itself says what the assistant writes (else it is found by difference).
    `round_trip`: the ids decode to the rendered text. `prefix_preserving`: the prompt of each answer, encoded
    as for generation, begins the training ids. `ends_in_stop`: each learnt answer ends with a stop id. `one_bos`: the
    text begins with no more than one begin token.
    """
    ids = example.ids.tolist()
    answers = [number for number, message in enumerate(row.messages) if message["role"] == "assistant"]
    text = tokenizer.render_text(row.messages, tools=row.tools)
    return {
        "generation_blocks": tokenizer.marks_answers(),
        "round_trip": tokenizer.decode(ids, skip_special=False) == text,
        "prefix_preserving": all(_prompt_begins(tokenizer, row, number, ids) for number in answers if number),
        "ends_in_stop": all(ends_in_stop(tokenizer, run) for run in learnt_runs(example)),
        "one_bos": tokenizer.bos_id is None or ids[:2] != [tokenizer.bos_id] * 2,
    }


def _prompt_begins(tokenizer: FileTokenizer, row: Row, number: int, ids: list[int]) -> bool:
    """Whether the prompt of message `number`, as for generation, begins the ids; one that is refused does not."""
    try:
        prompt, _ = tokenizer.render(row.messages[:number], tools=row.tools, add_generation_prompt=True)
    except TokenizerError:
        return False
    return ids[: len(prompt)] == prompt
