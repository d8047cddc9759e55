import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from luban.data.conversations import Example, LossOn, read_conversations, read_examples, to_example
from luban.data.row_formats import to_row
from luban.errors import DataError, TokenizerError
from tests import tiny

USER, ANSWER = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "四 4"}
MORE, LAST = {"role": "user", "content": "sure?"}, {"role": "assistant", "content": "Yes"}
TALK = [USER, ANSWER, MORE, LAST]


def example(raw: Any, **options: Any) -> Example:
    return to_example(tiny.tokenizer(), to_row(raw, where="rows.jsonl:7"), **options)


def learnt(made: Example) -> str:
    return tiny.tokenizer().decode(made.ids[made.mask].tolist(), skip_special=False)


def text(made: Example) -> str:
    return tiny.tokenizer().decode(made.ids.tolist(), skip_special=False)


def write(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "raw",
    [
        {"messages": TALK[:2]},
        TALK[:2],
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "2+2?"}]}, ANSWER], "id": 3},
        {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "四 4"}]},
        {"instruction": "2+2?", "input": "", "output": "四 4"},
        {"prompt": [USER], "completion": [ANSWER]},
    ],
)
def test_every_chat_format_gives_the_same_messages(raw: Any):
    row = to_row(raw, where="x:1")
    assert [(message["role"], message["content"]) for message in row.messages] == [
        ("user", "2+2?"),
        ("assistant", "四 4"),
    ]


def test_alpaca_joins_input_and_keeps_system_and_history():
    raw = {
        "instruction": "Add.",
        "input": "2 2",
        "output": "4",
        "system": "Count.",
        "history": [["Hi", "Hello"]],
    }
    turns = [(message["role"], message["content"]) for message in to_row(raw, where="x").messages]
    assert turns == [
        ("system", "Count."),
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "Add.\n\n2 2"),
        ("assistant", "4"),
    ]


def test_tool_calls_of_sharegpt_and_openai_become_objects():
    sharegpt = {
        "conversations": [
            {"from": "human", "value": "2+2?"},
            {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 2}}'},
            {"from": "observation", "value": "4"},
        ],
        "tools": '[{"name": "add"}]',
    }
    row = to_row(sharegpt, where="x")
    assert row.tools == ({"name": "add"},)
    assert row.messages[1]["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 2}}
    call = {"id": "1", "function": {"name": "add", "arguments": '{"a": 2}'}}
    openai = to_row([USER, {"role": "assistant", "content": None, "tool_calls": [call]}], where="x")
    assert openai.messages[1]["tool_calls"][0]["function"]["arguments"] == {"a": 2}
    assert openai.messages[1]["content"] == ""


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (3, "an object or a list of messages, not 3"),
        ({"question": "q"}, "unknown row format with keys: question"),
        ({"messages": "hi"}, "'messages' must be a list, not a text"),
        ({"messages": []}, "conversation is empty"),
        ([{"content": "x"}], "message 1 needs 'role'"),
        ([USER, {"role": "bot", "content": "x"}], "message 2 has the role 'bot'; choose from: system"),
        ([USER, {"role": "assistant"}], "message 2 has no 'content'"),
        ([{"role": "user", "content": [{"type": "image"}]}], "message 1: 'content' must be text, not a list"),
        (
            {"conversations": [{"from": "humann", "value": "x"}]},
            "turn 1 is from 'humann'; did you mean 'human'",
        ),
        ({"conversations": [{"value": "x"}]}, "turn 1 needs 'from' and 'value'"),
        ({"instruction": "a", "output": None}, "unknown row format"),
        ({"instruction": "a", "output": "b", "history": [["q"]]}, "pairs"),
        ({"prompt": "a", "completion": [ANSWER]}, "two texts or two lists"),
        ({"text": 5}, "'text' must be text, not 5"),
        ({"messages": TALK, "tools": "{"}, "'tools' is not valid JSON"),
    ],
)
def test_a_malformed_row_is_refused_with_its_place_and_fault(raw: Any, message: str):
    with pytest.raises(DataError) as caught:
        to_row(raw, where="rows.jsonl:7")
    assert str(caught.value).startswith("rows.jsonl:7: ")
    assert message in str(caught.value)


def test_answers_are_learnt_with_their_end_and_prompts_are_not():
    made = example(TALK)
    assert learnt(made) == "四 4<|im_end|>Yes<|im_end|>"
    assert text(made).startswith("<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n四 4<|im_end|>\n")
    assert (made.ids.dtype, made.mask.dtype) == (np.int32, np.bool_)


@pytest.mark.parametrize(("loss_on", "expected"), [("last", "Yes<|im_end|>"), ("all", None)])
def test_the_loss_can_be_on_the_last_answer_or_on_everything(loss_on: LossOn, expected: str | None):
    made = example(TALK, loss_on=loss_on)
    assert learnt(made) == (expected or text(made))


def test_answers_inside_a_prompt_are_not_learnt():
    assert learnt(example({"prompt": TALK[:3], "completion": [LAST]})) == "Yes<|im_end|>"


def test_plain_text_is_learnt_after_its_prompt_and_up_to_the_end_token():
    made = example({"prompt": "2+2=", "completion": " 4"})
    assert (text(made), learnt(made)) == ("2+2= 4<|endoftext|>", " 4<|endoftext|>")
    assert learnt(example({"text": "鲁班"})) == "鲁班<|endoftext|>"


def test_plain_text_begins_with_bos_only_where_models_expect_it():
    tokenizer = tiny.with_bos("")
    row = to_row({"prompt": "a", "completion": "b"}, where="x")
    ids = to_example(tokenizer, row).ids.tolist()
    assert ids == [1, *tokenizer.encode("a"), *tokenizer.encode("b"), 2]
    assert 0 not in example({"text": "a"}).ids[:-1]


def test_special_tokens_in_a_row_stay_text():
    made = example({"prompt": "a<|endoftext|>", "completion": "<|im_end|>"})
    assert (made.ids < 3).sum() == 1


def test_a_long_row_keeps_its_beginning_or_is_dropped():
    whole = example(TALK)
    cut = example(TALK, max_tokens=len(whole.ids) - 1)
    assert cut.truncated
    assert cut.ids.tolist() == whole.ids[:-1].tolist()
    assert not example(TALK, max_tokens=len(whole.ids)).truncated
    with pytest.raises(DataError, match=rf"rows\.jsonl:7: {len(whole.ids)} tokens are more than 10"):
        example(TALK, max_tokens=10, overlong="drop")


def test_a_row_with_nothing_to_learn_is_refused():
    with pytest.raises(DataError, match=r"rows\.jsonl:7: there is no assistant turn"):
        example([USER])
    with pytest.raises(DataError, match="nothing to learn within the first 5 tokens"):
        example(TALK, max_tokens=5)
    with pytest.raises(DataError, match="nothing to learn in it"):
        example({"text": ""})


def test_a_row_its_template_refuses_is_named():
    grumpy = tiny.tokenizer_with("{{ raise_exception('Only short talks!') }}")
    with pytest.raises(DataError, match=r"rows\.jsonl:7: fails on message 1 .*Only short talks!"):
        to_example(grumpy, to_row(TALK, where="rows.jsonl:7"))


def test_a_missing_template_is_the_tokenizers_fault():
    with pytest.raises(TokenizerError, match="no chat template"):
        to_example(tiny.tokenizer_with(None), to_row(TALK, where="x"))


def test_rows_are_read_from_lines_lists_and_compressed_files(tmp_path: Path):
    raw = [{"messages": TALK}, {"text": "鲁班"}]
    lines = write(tmp_path / "a.jsonl", *raw)
    (tmp_path / "b.json").write_text(json.dumps(raw, indent=2), encoding="utf-8")
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(lines.read_bytes()))
    read = {name: list(read_conversations(tmp_path / name)) for name in ("a.jsonl", "b.json", "c.jsonl.gz")}
    assert {len(rows) for rows in read.values()} == {2}
    assert {rows[1].completion for rows in read.values()} == {"鲁班"}
    assert [rows[1].where for rows in read.values()] == [
        f"{tmp_path}/a.jsonl:2",
        f"{tmp_path}/b.json row 2",
        f"{tmp_path}/c.jsonl.gz:2",
    ]


def test_a_bad_line_stops_reading_or_goes_to_reject(tmp_path: Path):
    path = write(tmp_path / "rows.jsonl", {"messages": TALK})
    path.write_text(path.read_text(encoding="utf-8") + '\n\n{"a": \n{"text": "b"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"rows\.jsonl:3: not valid JSON: .* at column"):
        list(read_conversations(path))
    rejected: list[DataError] = []
    assert len(list(read_conversations(path, reject=rejected.append))) == 2
    assert len(rejected) == 1


def test_a_file_without_rows_or_a_missing_one_is_refused(tmp_path: Path):
    (tmp_path / "empty.jsonl").write_text("\n", encoding="utf-8")
    with pytest.raises(DataError, match="no rows"):
        list(read_conversations(tmp_path / "empty.jsonl"))
    with pytest.raises(DataError, match="no such file"):
        list(read_conversations(tmp_path / "none.jsonl"))


def test_examples_count_what_was_kept_cut_and_rejected(tmp_path: Path):
    path = write(tmp_path / "rows.jsonl", {"messages": TALK}, {"messages": [USER]}, {"messages": TALK[:2]})
    examples = read_examples([path], tiny.tokenizer(), max_tokens=len(example(TALK[:2]).ids))
    tally = examples.tally
    assert (tally.rows, tally.kept, tally.truncated) == (3, 2, 1)
    assert tally.rejected == [f"{path}:2: there is no assistant turn to learn"]
    ids, mask = examples[1]
    assert (ids.tolist(), mask.tolist()) == (example(TALK[:2]).ids.tolist(), example(TALK[:2]).mask.tolist())
    assert (len(examples), examples.where(1)) == (2, f"{path}:3")


def test_a_file_of_which_nothing_can_be_learnt_is_refused_with_the_first_reason(tmp_path: Path):
    path = write(tmp_path / "rows.jsonl", {"messages": [USER]}, {"messages": [USER]})
    with pytest.raises(DataError, match=r"none of 2 rows .*rows\.jsonl:1: there is no assistant turn"):
        read_examples([path], tiny.tokenizer())
