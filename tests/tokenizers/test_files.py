import json
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import tokenizers
from transformers import AutoTokenizer

from luban.errors import DataError, TokenizerError
from luban.tokenizers import files
from tests import tiny

TALK = [{"role": "user", "content": "Hello 你好"}, {"role": "assistant", "content": "Paris"}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny.tokenizer().save(tmp_path)
    return tmp_path


def change(path: Path, **entries: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(content | entries), encoding="utf-8")


def test_load_of_save_is_identity(folder: Path):
    before, after = tiny.tokenizer(), files.load(folder)
    for name in ("special_tokens", "chat_template", "stop_ids", "vocab_size", "bos_id", "eos_id", "pad_id"):
        assert getattr(after, name) == getattr(before, name)
    assert after.to_json() == before.to_json()
    assert after.render(TALK) == before.render(TALK)


def test_what_a_vendor_wrote_in_its_config_is_kept(folder: Path, tmp_path: Path):
    change(folder / files.CONFIG_FILE, tokenizer_class="LlamaTokenizerFast", model_max_length=512, own="x")
    files.load(folder).save(tmp_path / "copy")
    config = json.loads((tmp_path / "copy" / files.CONFIG_FILE).read_text(encoding="utf-8"))
    assert (config["tokenizer_class"], config["own"]) == ("LlamaTokenizerFast", "x")
    assert files.load(tmp_path / "copy").max_length == 512


@pytest.mark.parametrize("text", [*tiny.TEXTS[:5], "a <b> c\n\n  d", " ", ""])
def test_transformers_gives_the_same_ids(folder: Path, text: str):
    theirs = AutoTokenizer.from_pretrained(folder)
    ids = tiny.tokenizer().encode(text)
    assert theirs.encode(text, add_special_tokens=False) == ids
    assert theirs.encode(text) == ids
    assert theirs.decode(ids) == text


def test_transformers_reads_the_roles_of_special_tokens(folder: Path):
    theirs = AutoTokenizer.from_pretrained(folder)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (0, 0, 0)
    assert theirs.chat_template == tiny.tokenizer().chat_template


def test_special_tokens_spelled_out_are_ordinary_text():
    tokenizer = tiny.tokenizer()
    for text in ("<|endoftext|>", "a<|im_end|>b"):
        ids = tokenizer.encode(text)
        assert min(ids) > 2
        assert tokenizer.decode(ids) == text


def test_a_batch_equals_its_texts_alone():
    tokenizer = tiny.tokenizer()
    texts = [*tiny.TEXTS[:5], "", "<|endoftext|>"]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


def test_special_tokens_are_decoded_only_if_asked_for():
    tokenizer = tiny.tokenizer()
    ids = [1, *tokenizer.encode("a"), 2]
    assert tokenizer.decode(ids) == "a"
    assert tokenizer.decode(ids, skip_special=False) == "<|im_start|>a<|im_end|>"


def test_a_template_file_wins_over_the_config(folder: Path):
    (folder / files.TEMPLATE_FILE).write_text("{{ '木' }}", encoding="utf-8")
    assert files.load(folder).render_text(TALK) == "木"


def test_saving_replaces_an_older_template_file(folder: Path):
    (folder / files.TEMPLATE_FILE).write_text("{{ 'old' }}", encoding="utf-8")
    tiny.tokenizer().save(folder)
    assert files.load(folder).chat_template == tiny.tokenizer().chat_template


def test_the_template_named_for_tools_is_used_with_tools(folder: Path):
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    change(folder / files.CONFIG_FILE, chat_template=named)
    files.load(folder).save(folder)
    loaded = files.load(folder)
    assert loaded.render_text(TALK) == "plain"
    assert loaded.render_text(TALK, tools=[{"name": "f"}]) == "tools"


@pytest.mark.parametrize(("listed", "expected"), [([2, 1], (0, 2, 1)), (1, (0, 1, 2)), (None, (0, 2))])
def test_stop_ids_join_eos_generation_config_and_template(
    folder: Path, listed: Any, expected: tuple[int, ...]
):
    change(folder / files.GENERATION_FILE, eos_token_id=listed)
    assert files.load(folder).stop_ids == expected


def test_roles_can_stand_as_objects_or_only_in_the_map_of_specials(folder: Path):
    (folder / files.CONFIG_FILE).write_text('{"bos_token": {"content": "<|im_start|>"}}', encoding="utf-8")
    loaded = files.load(folder)
    assert (loaded.bos_id, loaded.eos_id, loaded.chat_template) == (1, 0, None)


def test_a_role_makes_a_token_special_where_the_vocabulary_does_not(folder: Path):
    layout = json.loads((folder / files.TOKENIZER_FILE).read_text(encoding="utf-8"))
    layout["added_tokens"] = [token for token in layout["added_tokens"] if token["id"] != 0]
    (folder / files.TOKENIZER_FILE).write_text(json.dumps(layout), encoding="utf-8")
    loaded = files.load(folder)
    assert loaded.special_tokens["<|endoftext|>"] == 0
    assert loaded.vocab_size == 384


def test_limits_stored_for_another_use_do_not_cut_text(folder: Path):
    backend = tokenizers.Tokenizer.from_file(str(folder / files.TOKENIZER_FILE))
    backend.enable_truncation(4)
    backend.enable_padding(length=8)
    backend.save(str(folder / files.TOKENIZER_FILE))
    assert files.load(folder).encode(tiny.TEXTS[0]) == tiny.tokenizer().encode(tiny.TEXTS[0])


def test_an_unknown_length_limit_is_none(folder: Path):
    change(folder / files.CONFIG_FILE, model_max_length=10**30)
    assert files.load(folder).max_length is None


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(TokenizerError, match="surrogate"):
        tiny.tokenizer().encode("ok \ud83d")


def test_a_missing_folder_and_an_empty_one_are_told_apart(tmp_path: Path):
    with pytest.raises(TokenizerError, match="no such folder"):
        files.load(tmp_path / "nowhere")
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json there"):
        files.load(tmp_path)


@pytest.mark.parametrize("name", [files.TOKENIZER_FILE, files.CONFIG_FILE, files.SPECIALS_FILE])
def test_a_broken_file_is_named(folder: Path, name: str):
    (folder / name).write_text("{", encoding="utf-8")
    with pytest.raises(TokenizerError, match=name):
        files.load(folder)


def test_a_role_for_an_unknown_token_is_refused_with_the_nearest(folder: Path):
    change(folder / files.CONFIG_FILE, eos_token="<|im_ends|>")
    with pytest.raises(
        TokenizerError, match=r"eos_token '<\|im_ends\|>' is not in the vocabulary(.|\n)*<\|im_end\|>"
    ):
        files.load(folder)


def test_a_malformed_merge_is_named_by_its_line(tmp_path: Path):
    (tmp_path / "encoder.json").write_text('{"a": 0}', encoding="utf-8")
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\na\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"vocab\.bpe:2: a merge is two symbols, not 'a'"):
        files.from_gpt2(tmp_path / "encoder.json", tmp_path / "vocab.bpe")


GPT2_SPLIT = (
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # tiktoken's r50k_base
)
# Ids printed in OpenAI's own documents and tests of GPT-2's tokenizer.
PUBLISHED = {
    "Hello world": [15496, 995],
    "hello world": [31373, 995],
    " the": [262],
    "\n": [198],
    "!": [0],
}
STRINGS = [
    *tiny.TEXTS[:5],
    "def f(x):\n\treturn {'a': x**2}  # 注释\n\n\n    pass",
    "I'll we've you're it's they'd I'm can't I'LL",
    "👨‍👩‍👧 🇨🇳 e\u0301 ﬁ \u00a0\u3000\u200b \x00\x7f",
    "鲁班（约公元前507年—前444年），姬姓，公输氏，名班。",
    "1234567890 3.14159 0x1F   trailing   ",
]


@pytest.mark.slow
def test_gpt2_ids_equal_the_published_ones_and_tiktokens():
    from luban.fetch import fetch_known

    source = fetch_known("gpt2-vocab")
    tokenizer = files.from_gpt2(source / "encoder.json", source / "vocab.bpe")
    assert tokenizer.vocab_size == 50257
    assert tokenizer.special_tokens == {"<|endoftext|>": 50256}
    assert {text: tokenizer.encode(text) for text in PUBLISHED} == PUBLISHED
    oracle = tiktoken.Encoding(
        "gpt2", pat_str=GPT2_SPLIT, mergeable_ranks=ranks_of(source / "vocab.bpe"), special_tokens={}
    )
    for text in STRINGS:
        assert tokenizer.encode(text) == oracle.encode_ordinary(text)
        assert tokenizer.decode(tokenizer.encode(text)) == text


def ranks_of(vocab_bpe: Path) -> dict[bytes, int]:
    """tiktoken's ranks from the merges alone: 256 bytes, printable ones first, then one id per merge."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    byte_of = {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
    tokens = [bytes([byte]) for byte in printable + others]
    merges = vocab_bpe.read_text(encoding="utf-8").splitlines()[1:]
    tokens += [bytes(byte_of[sign] for sign in merge.replace(" ", "")) for merge in merges]
    return {token: rank for rank, token in enumerate(tokens)}
