import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from luban.data import check
from tests import tiny

TALK = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "四 4"}]
HOLDS = {
    "generation_blocks": True,
    "round_trip": True,
    "prefix_preserving": True,
    "ends_in_stop": True,
    "one_bos": True,
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tiny.tokenizer().save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    raw = [{"messages": TALK}, {"messages": TALK[:1]}, {"text": "木" * 99}, {"no": 1}]
    lines = [*map(json.dumps, raw), "{"]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path / "rows.jsonl"


def checked(data: Path, model: Path, **options: Any) -> dict[str, Any]:
    return check.run(check.Config(data=data, model=model, **options))


def test_rows_are_counted_with_the_reasons_of_the_rejected(rows: Path, model: Path):
    results = checked(rows, model, max_tokens=50)
    assert [results[name] for name in ("rows", "kept", "truncated")] == [5, 2, 1]
    assert [reason.removeprefix(f"{rows}:")[:25] for reason in results["rejected"]] == [
        "2: there is no assistant ",
        "4: unknown row format wit",
        "5: not valid JSON: Expect",
    ]


def test_pieces_join_to_the_row_and_tell_what_is_learnt(rows: Path, model: Path):
    shown = checked(rows, model, rows=1)["shown"]
    assert shown == [
        {
            "where": f"{rows}:1",
            "pieces": [
                {"text": "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n", "trained": False},
                {"text": "四 4<|im_end|>", "trained": True},
                {"text": "\n", "trained": False},
            ],
        }
    ]


def test_the_share_of_learnt_tokens_is_that_of_the_masks(rows: Path, model: Path):
    results = checked(rows, model, loss_on="all")
    assert results["trained_tokens"] == results["tokens"]
    assert results["trained_share"] == 1
    results = checked(rows, model)
    ids, mask = tiny.tokenizer().render(TALK)
    text_tokens = len(tiny.tokenizer().encode("木" * 99)) + 1
    assert results["tokens"] == len(ids) + text_tokens
    assert results["trained_tokens"] == sum(mask) + text_tokens


def test_the_house_template_passes_all_proofs(rows: Path, model: Path):
    assert checked(rows, model)["template"] == HOLDS


def test_a_vocabulary_that_loses_characters_is_found_out(rows: Path, tmp_path: Path):
    tiny.sentencepiece_like().save(tmp_path / "lossy")  # it has no 四
    assert checked(rows, tmp_path / "lossy")["template"]["round_trip"] is False


def test_a_template_that_forgets_the_end_of_answers_is_found_out(rows: Path, tmp_path: Path):
    endless = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}\n{% endfor %}"
    tiny.tokenizer_with(endless).save(tmp_path / "endless")
    assert checked(rows, tmp_path / "endless")["template"] == HOLDS | {"ends_in_stop": False}


def test_a_prompt_that_differs_from_training_is_found_out(rows: Path, tmp_path: Path):
    thinks = tiny.VENDOR_CHATML.replace(
        "{% if add_generation_prompt %}{{ '", "{% if add_generation_prompt %}{{ '!"
    )
    blocks = thinks.replace(
        "message['content'] + '<|im_end|>' + '\n' }}",
        "'' }}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}",
    )
    tiny.tokenizer_with(blocks).save(tmp_path / "thinks")
    assert checked(rows, tmp_path / "thinks")["template"] == HOLDS | {"prefix_preserving": False}


def test_the_histogram_counts_every_row_once():
    # 12 bins of width ceil(25 / 12) = 3: 1..3, 4..6, ..., 25..27.
    assert check.histogram([1, 3, 4, 25]) == [
        (1, 3, 2),
        (4, 6, 1),
        *((low, low + 2, 0) for low in range(7, 25, 3)),
        (25, 27, 1),
    ]
    assert check.histogram([]) == []


def test_without_colour_brackets_show_what_is_learnt(
    rows: Path, model: Path, capsys: pytest.CaptureFixture[str]
):
    check.show(checked(rows, model, rows=1))
    page = capsys.readouterr().out
    assert "<|im_start|>assistant\n[[四 4<|im_end|>]]\n" in page
    assert "5 read, 2 kept, 3 rejected" in page
    assert "template   prefix preserving: yes" in page
    assert f"rejected   {rows}:2: there is no assistant turn to learn" in page


def test_in_colour_what_is_learnt_is_green(rows: Path, model: Path):
    parts = checked(rows, model, rows=1)["shown"][0]["pieces"]
    text = check.coloured(parts, in_colour=True)
    assert text.plain == "".join(part["text"] for part in parts)
    assert [span.style for span in text.spans] == ["dim", "green", "dim"]


def test_the_command_takes_the_file_as_a_bare_word_and_speaks_json(rows: Path, model: Path):
    words = [sys.executable, "-m", "luban", "data", "check", str(rows), "--model", str(model), "--json"]
    done = subprocess.run(words, capture_output=True, check=True, text=True)
    assert json.loads(done.stdout)["kept"] == 2


def test_a_template_that_writes_the_begin_token_twice_is_found_out(rows: Path, tmp_path: Path):
    twice = "{{ bos_token + bos_token }}" + tiny.VENDOR_CHATML
    tokenizer = tiny.with_bos(twice)
    tokenizer.save(tmp_path / "twice")
    results = checked(rows, tmp_path / "twice")
    assert results["template"]["one_bos"] is False
    assert results["template_failed_at"]["one_bos"] == f"{rows}:1"


def test_a_proof_names_the_first_conversation_it_fails_on(tmp_path: Path):
    # The prompt of a second answer is written otherwise than in training, that of a first one is not.
    blocks = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% generation %}"
        "{{ m.content + '<|im_end|>' }}{% endgeneration %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' + ('!' if messages | length > 2 else '') }}"
        "{% endif %}"
    )
    tiny.tokenizer_with(blocks).save(tmp_path / "model")
    rows = tmp_path / "rows.jsonl"
    lines = [json.dumps({"messages": TALK * times}) for times in (1, 1, 2)]
    rows.write_text("\n".join(lines), encoding="utf-8")
    results = checked(rows, tmp_path / "model")
    assert results["template"]["prefix_preserving"] is False
    assert results["template_failed_at"] == {"prefix_preserving": f"{rows}:3"}


def test_a_template_that_refuses_a_prompt_does_not_preserve_it(tmp_path: Path):
    refuses = "{% if messages[-1].role == 'user' %}{{ raise_exception('no') }}{% endif %}" + (
        "{% for m in messages %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% endfor %}"
    )
    tiny.tokenizer_with(refuses).save(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": TALK}), encoding="utf-8")
    assert checked(tmp_path / "rows.jsonl", tmp_path / "model")["template"]["prefix_preserving"] is False


def test_formats_and_lengths_are_told(rows: Path, model: Path, capsys: pytest.CaptureFixture[str]):
    results = checked(rows, model)
    assert results["formats"] == {"messages": 1, "text": 1}
    lengths = sorted([len(tiny.tokenizer().render(TALK)[0]), len(tiny.tokenizer().encode("木" * 99)) + 1])
    assert results["lengths"] == {"median": lengths[0], "p95": lengths[1], "longest": lengths[1]}
    check.show(results)
    assert "formats    1 messages, 1 text" in capsys.readouterr().out


def test_quantiles_are_lengths_of_rows():
    assert check.quantiles(range(1, 101)) == {"median": 50, "p95": 95, "longest": 100}
    assert check.quantiles([]) == {}


def test_columns_of_a_table_are_read_under_our_names(model: Path, tmp_path: Path):
    (tmp_path / "qa.csv").write_text("question;reply\n2+2?;4\n", encoding="utf-8")
    results = checked(tmp_path / "qa.csv", model, columns={"instruction": "question", "output": "reply"})
    assert results["formats"] == {"alpaca": 1}
    assert "".join(piece["text"] for piece in results["shown"][0]["pieces"]).count("2+2?") == 1


def test_a_rejected_row_of_broken_characters_can_be_shown(model: Path, tmp_path: Path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"messages": TALK}) + '\n{"\\ud83d": 1}\n', encoding="utf-8")
    words = [sys.executable, "-m", "luban", "data", "check", str(rows), "--model", str(model), "--json"]
    done = subprocess.run(words, capture_output=True, check=True, text=True)
    assert json.loads(done.stdout)["rejected"] == [f"{rows}:2: unknown row format with keys: \\ud83d"]
