import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luban.data.conversations import Example, LossOn, read_conversations, read_examples, to_example
from luban.data.rejected import Tally, write_rejected
from luban.data.row_formats import to_row
from luban.errors import ConfigError, DataError, TokenizerError
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
        f"{tmp_path}/b.json:22 row 2",
        f"{tmp_path}/c.jsonl.gz:2",
    ]


def test_a_bad_line_stops_reading_or_goes_to_reject(tmp_path: Path):
    path = write(tmp_path / "rows.jsonl", {"messages": TALK})
    path.write_text(path.read_text(encoding="utf-8") + '\n\n{"a": \n{"text": "b"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"rows\.jsonl:3: not valid JSON: .* at column"):
        list(read_conversations(path))
    tally = Tally()
    assert len(list(read_conversations(path, reject=tally.reject))) == 2
    assert [rejected.row for rejected in tally.rejected] == ['{"a": ']


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
    assert [str(rejected) for rejected in tally.rejected] == [
        f"{path}:2: there is no assistant turn to learn"
    ]
    ids, mask = examples[1]
    assert (ids.tolist(), mask.tolist()) == (example(TALK[:2]).ids.tolist(), example(TALK[:2]).mask.tolist())
    assert (len(examples), examples.where(1)) == (2, f"{path}:3")


def test_a_file_of_which_nothing_can_be_learnt_is_refused_with_the_first_reason(tmp_path: Path):
    path = write(tmp_path / "rows.jsonl", {"messages": [USER]}, {"messages": [USER]})
    with pytest.raises(DataError, match=r"none of 2 rows .*rows\.jsonl:1: there is no assistant turn"):
        read_examples([path], tiny.tokenizer())


def test_every_row_keeps_the_name_of_its_format_and_what_it_was():
    raw = {"instruction": "2+2?", "output": "4"}
    row = to_row(raw, where="x")
    assert (row.format, row.raw) == ("alpaca", raw)
    assert to_row(TALK, where="x").raw == TALK


def test_columns_say_what_rows_call_our_entries():
    raw = {"question": "2+2?", "reply": "4", "note": "easy", "text": "left alone"}
    row = to_row(raw, where="x", columns={"instruction": "question", "output": "reply", "input": "note"})
    assert [message["content"] for message in row.messages] == ["2+2?\n\neasy", "4"]
    plain = to_row(raw, where="x", columns={"prompt": "question", "completion": "reply"})
    assert (plain.prompt, plain.completion, plain.format) == ("2+2?", "4", "prompt")


def test_columns_can_rename_one_entry_and_rows_may_lack_an_optional_one():
    columns = {"output": "response", "input": "context"}
    row = to_row({"instruction": "Count.", "response": "1 2"}, where="x", columns=columns)
    assert [message["content"] for message in row.messages] == ["Count.", "1 2"]


def test_a_row_that_has_our_name_already_needs_no_column():
    row = to_row({"prompt": "a", "completion": "b"}, where="x", columns={"prompt": "question"})
    assert row.prompt == "a"


def test_a_row_without_the_named_column_is_refused_with_the_nearest():
    with pytest.raises(DataError, match="x:1: there is no 'question' for 'prompt'; did you mean 'questions'"):
        to_row({"questions": "a", "completion": "b"}, where="x:1", columns={"prompt": "question"})


def test_a_column_that_no_format_has_is_a_wrong_setting(tmp_path: Path):
    path = write(tmp_path / "rows.jsonl", {"text": "a"})
    with pytest.raises(ConfigError, match="no row format has 'promt'; did you mean 'prompt'"):
        list(read_conversations(path, columns={"promt": "question"}))


def test_lists_in_table_cells_are_read_from_json(tmp_path: Path):
    with (tmp_path / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["messages", "tools"])
        table.writerow([json.dumps(TALK), '[{"name": "add"}]'])
    (row,) = read_conversations(tmp_path / "rows.csv")
    assert [message["content"] for message in row.messages] == ["2+2?", "四 4", "sure?", "Yes"]
    assert row.tools == ({"name": "add"},)


def test_null_entries_of_a_message_are_left_out():
    (message,) = to_row([{**USER, "tool_calls": None, "name": None}], where="x").messages
    assert message == USER


def test_tool_calls_and_results_are_rendered_and_only_the_calls_are_learnt():
    call = {"type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": 2}'}}
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    made = example(
        {
            "messages": [
                USER,
                {"role": "assistant", "content": "", "tool_calls": [call]},
                {"role": "tool", "content": "the sum is 4"},
                LAST,
            ],
            "tools": tools,
        }
    )
    assert learnt(made) == (
        '<tool_call>{"name": "add", "arguments": {"a": 2, "b": 2}}</tool_call><|im_end|>Yes<|im_end|>'
    )
    assert json.dumps(tools[0]) in text(made)
    assert "<|im_start|>tool\nthe sum is 4<|im_end|>" in text(made)


def test_an_empty_answer_is_refused():
    with pytest.raises(DataError, match="the answer is empty"):
        example([USER, {"role": "assistant", "content": " "}])
    with pytest.raises(DataError, match="the text is empty"):
        example({"prompt": "a", "completion": ""})


def test_half_of_a_surrogate_pair_is_a_rows_fault():
    with pytest.raises(DataError, match=r"rows\.jsonl:7: .*surrogate"):
        example({"text": "a\ud83d"})
    with pytest.raises(DataError, match=r"rows\.jsonl:7: .*surrogate"):
        example([USER, {"role": "assistant", "content": "a\ud83d"}])


def test_rejected_rows_are_written_as_they_were_with_their_reason(tmp_path: Path):
    odd, silent = {"odd": "\ud83d"}, {"messages": [USER]}
    path = write(tmp_path / "rows.jsonl", odd, silent, {"messages": TALK})
    path.write_text(path.read_text(encoding="utf-8") + "\n{broken", encoding="utf-8")
    write_rejected(tmp_path, read_examples([path], tiny.tokenizer()).tally)
    lines = [
        json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [line["where"] for line in lines] == [f"{path}:1", f"{path}:2", f"{path}:4"]
    by_place = {line["where"].rpartition(":")[2]: line for line in lines}
    assert by_place["1"]["row"] == odd
    assert by_place["1"]["reason"] == "unknown row format with keys: odd"
    assert by_place["1"]["hint"].endswith("columns.prompt=question")
    assert by_place["2"] == {
        "where": f"{path}:2",
        "reason": "there is no assistant turn to learn",
        "row": silent,
    }
    assert by_place["4"]["row"] == "{broken"


def test_where_no_row_is_rejected_an_older_reject_file_goes(tmp_path: Path):
    (tmp_path / "rejected.jsonl").write_text("old", encoding="utf-8")
    write_rejected(tmp_path, Tally())
    assert not (tmp_path / "rejected.jsonl").exists()


@pytest.mark.parametrize("bad", [{"odd": 1}, {"messages": [USER]}])
def test_a_bad_row_stops_a_reader_who_is_told_to_stop(bad: Any, tmp_path: Path):
    path = write(tmp_path / "rows.jsonl", {"messages": TALK}, bad)
    assert len(read_examples([path], tiny.tokenizer())) == 1
    with pytest.raises(DataError, match=r"rows\.jsonl:2: "):
        read_examples([path], tiny.tokenizer(), on_bad_row="stop")


def test_a_row_dropped_for_its_length_is_no_bad_row(tmp_path: Path):
    path = write(tmp_path / "rows.jsonl", {"text": "a " * 40}, {"text": "b"})
    options: Any = {"on_bad_row": "stop", "max_tokens": 8, "overlong": "drop"}
    examples = read_examples([path], tiny.tokenizer(), **options)
    assert (len(examples), len(examples.tally.rejected)) == (1, 1)


def test_one_useless_file_among_others_is_an_error(tmp_path: Path):
    good = write(tmp_path / "good.jsonl", {"text": "b"}, {"odd": 1})
    useless = write(tmp_path / "useless.jsonl", {"odd": 1}, {"odd": 2})
    with pytest.raises(
        DataError, match=r"useless\.jsonl: none of 2 rows .*useless\.jsonl:1: unknown row format"
    ):
        read_examples([good, useless], tiny.tokenizer())


def test_a_template_that_leaves_the_end_out_of_what_is_learnt_is_refused(tmp_path: Path):
    path = write(tmp_path / "rows.jsonl", {"messages": TALK})
    endless = (
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>{% endfor %}"
    )
    with pytest.raises(
        TokenizerError, match=r"rows\.jsonl:1: .*the model would never stop\n  try: put the end"
    ):
        read_examples([path], tiny.tokenizer_with(endless))


def test_spaces_behind_the_end_token_may_be_learnt(tmp_path: Path):
    path = write(tmp_path / "rows.jsonl", {"messages": TALK})
    spaced = (
        "{% for m in messages %}{% generation %}{{ m.content }}<|im_end|>\n{% endgeneration %}{% endfor %}"
    )
    assert len(read_examples([path], tiny.tokenizer_with(spaced))) == 1


def test_a_template_whose_answers_cannot_be_told_apart_says_what_to_do(tmp_path: Path):
    path = write(tmp_path / "rows.jsonl", {"messages": TALK})
    forgetful = "{% for m in messages[-2:] %}{{ m.content }}<|im_end|>{% endfor %}"
    with pytest.raises(
        DataError, match=r"none of 1 rows .*no generation blocks.*\n  try: put {% generation %}"
    ):
        read_examples([path], tiny.tokenizer_with(forgetful))


@pytest.mark.parametrize("template", ["{{ bos_token }}", ""])
def test_a_conversation_begins_as_its_template_says_whatever_plain_text_begins_with(template: str):
    turns = "{% for m in messages %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% endfor %}"
    tokenizer = tiny.with_bos(template + turns)
    assert tokenizer.adds_bos
    made = to_example(tokenizer, to_row(TALK, where="x"))
    assert made.ids.tolist().count(1) == bool(template)


KEYS = (
    "messages role content conversations from value prompt completion text source target tools tool_calls"
    " instruction output input system history function name arguments"
)
VALUES = st.recursive(
    st.none()
    | st.integers()
    | st.text(max_size=3)
    | st.sampled_from(["user", "assistant", "gpt", "human", "[1]"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS.split()), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=200)
@given(raw=VALUES)
def test_any_value_is_a_row_or_an_error_with_its_place(raw: Any):
    def place() -> str:
        try:
            return to_row(raw, where="x:1").where
        except DataError as error:
            return str(error)[:3]

    assert place() == "x:1"
