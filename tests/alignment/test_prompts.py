"""Prompts: through the chat template or plain, each asked once an epoch; rows that cannot be are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from luban.alignment.prompts import PromptOrder, read_prompts
from luban.alignment.verify import VERIFIERS
from luban.errors import DataError
from tests import tiny
from tests.alignment.models import prompts, write_rows

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]


def test_a_text_is_what_the_user_says_and_messages_are_as_they_are(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": "hello"}, {"prompt": MESSAGES}])
    first, second = read_prompts([rows], tiny.tokenizer(), window=64)
    assert tiny.tokenizer().decode(first.ids, skip_special=False) == (
        "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    )
    assert second.ids == tiny.tokenizer().render(MESSAGES, add_generation_prompt=True)[0]


def test_a_plain_prompt_is_only_its_text(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": "hello"}])
    (prompt,) = read_prompts([rows], tiny.tokenizer(), window=64, plain=True)
    assert prompt.ids == tiny.tokenizer().encode("hello")


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"prompt": "a"}, {"text": "b"}], r"rows\.jsonl:2: the row has no 'prompt'"),
        ([{"prompt": ""}], r"rows\.jsonl:1: the row has no 'prompt'"),
        (
            [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "a"}],
            r"rows\.jsonl:3: the row is the same as .*rows\.jsonl:1",
        ),
        (
            [{"prompt": "word " * 90}],
            r"rows\.jsonl:1: the prompt has \d+ tokens; the model's window leaves 64",
        ),
        ([{"prompt": "a", "answer": "x"}], r"rows\.jsonl:1: 'x' is no arithmetic"),
    ],
)
def test_a_row_that_cannot_be_asked_is_named(tmp_path: Path, rows: list[dict[str, str]], told: str) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"answer": "1", **row} for row in rows])
    with pytest.raises(DataError, match=told):
        read_prompts([path], tiny.tokenizer(), window=64, check=VERIFIERS["arithmetic"].check)


def test_every_prompt_is_asked_once_before_any_comes_again(tmp_path: Path) -> None:
    asked = prompts(tmp_path)
    order = PromptOrder(asked, seed=3)
    epochs = [[prompt.where for prompt in order.take(3)] for _ in range(8)]
    flat = [where for part in epochs for where in part]
    for epoch in (flat[:8], flat[8:16], flat[16:]):
        assert sorted(epoch) == sorted(prompt.where for prompt in asked)
    assert flat[:8] != flat[8:16]
    assert order.epochs == 3


def test_a_restored_order_goes_on_where_it_was(tmp_path: Path) -> None:
    asked = prompts(tmp_path)
    whole, cut = PromptOrder(asked, seed=3), PromptOrder(asked, seed=3)
    whole.take(5)
    cut.restore(whole.state())
    assert cut.take(9) == whole.take(9)
