"""A byte-level BPE vocabulary in GGUF: tokens, merges, and the name by which llama.cpp knows how text is split.

llama.cpp has the split of each published vocabulary in its own code and picks it by a name in the file. A split that
it does not have cannot be written: the model would read other tokens than it was trained on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luban.errors import ModelError
from luban.tokenizers.kinds import LLAMA3_SPLIT

if TYPE_CHECKING:
    from luban.tokenizers.files import FileTokenizer

Metadata = Mapping[str, Any]
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""GGUF's types of tokens: the result of merges, a special one, text that is never cut, an id without text."""
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")


@dataclass(frozen=True, kw_only=True)
class Split:
    """How a text is cut before merging, as tokenizer.json says it."""

    pre_tokenizer: Mapping[str, Any]
    normalizer: Mapping[str, Any] | None = None
    ignore_merges: bool = False


def _by_pattern(pattern: str) -> dict[str, Any]:
    cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [cut, {**BYTE_LEVEL, "use_regex": False}]}


SPLITS = {
    "gpt-2": Split(pre_tokenizer=BYTE_LEVEL),
    "smollm": Split(
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL],
        }
    ),
    "dbrx": Split(pre_tokenizer=_by_pattern(LLAMA3_SPLIT)),
    "llama-bpe": Split(pre_tokenizer=_by_pattern(LLAMA3_SPLIT), ignore_merges=True),
    "qwen2": Split(pre_tokenizer=_by_pattern(QWEN2_SPLIT), normalizer={"type": "NFC"}),
}
"""By llama.cpp's name. `dbrx` cuts as `llama-bpe` does, and then merges also what is a token as a whole."""


def metadata_of(tokenizer: FileTokenizer, vocab: int, *, where: object) -> dict[str, Any]:
    """The tokenizer as the file's keys, its ids up to `vocab` filled with unused ones.

    Raises ModelError for another kind of vocabulary, or a split that llama.cpp has no name for.
    """
    layout = json.loads(tokenizer.to_json())
    split = split_name(layout, where=where)
    tokens, types = _tokens(tokenizer, layout, vocab, where=where)
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in layout["model"]["merges"]]
    named = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id}
    named |= {"padding": tokenizer.pad_id, "unknown": tokenizer.unk_id, "eot": _end_of_turn(tokenizer)}
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": split,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.add_bos_token": tokenizer.adds_bos,
        **{f"tokenizer.ggml.{key}_token_id": number for key, number in named.items() if number is not None},
        **({"tokenizer.chat_template": tokenizer.chat_template} if tokenizer.chat_template else {}),
    }


def split_name(layout: Mapping[str, Any], *, where: object) -> str:
    """llama.cpp's name of the split in a tokenizer.json; raises ModelError where it has none."""
    model = layout["model"]
    if (
        model["type"] != "BPE"
        or model.get("byte_fallback")
        or "ByteLevel" not in json.dumps(layout["decoder"])
    ):
        what = f"a vocabulary of the kind '{model['type']}' that is not byte-level BPE has no GGUF names here"
        raise ModelError(what, where=where)
    for name, split in SPLITS.items():
        same = _essence(layout["pre_tokenizer"]) == _essence(split.pre_tokenizer)
        normalised = layout.get("normalizer") in (None, split.normalizer)
        if same and normalised and bool(model.get("ignore_merges")) == split.ignore_merges:
            return name
    what = "llama.cpp has no name for the way this tokenizer splits text"
    hint = f"a vocabulary that splits like one of: {', '.join(SPLITS)}"
    raise ModelError(f"{what}: {json.dumps(layout['pre_tokenizer'])[:200]}", where=where, hint=hint)


def _essence(layout: Any) -> list[Any]:
    """The steps of a split without what changes no token."""
    steps = layout["pretokenizers"] if layout and layout["type"] == "Sequence" else [layout]
    unread = ("trim_offsets",)
    return [{key: value for key, value in (step or {}).items() if key not in unread} for step in steps]


def _tokens(
    tokenizer: FileTokenizer, layout: Mapping[str, Any], vocab: int, *, where: object
) -> tuple[list[str], list[int]]:
    """Every id's token and its type."""
    known = {number: token for token, number in tokenizer.vocabulary().items()}
    if max(known) >= vocab:
        what = f"the tokenizer has the id {max(known)}, and the model knows {vocab} tokens"
        raise ModelError(what, where=where)
    types = {token["id"]: CONTROL if token["special"] else USER_DEFINED for token in layout["added_tokens"]}
    tokens = [known.get(number, f"[PAD{number}]") for number in range(vocab)]
    return tokens, [types.get(number, NORMAL if number in known else UNUSED) for number in range(vocab)]


def _end_of_turn(tokenizer: FileTokenizer) -> int | None:
    """The id that ends an answer where it is not the one that ends a text."""
    return next((number for number in tokenizer.stop_ids if number != tokenizer.eos_id), None)


def tokenizer_json(metadata: Metadata, *, where: object) -> dict[str, Any]:
    """A `tokenizer.json` of the same ids; raises ModelError for another kind of vocabulary or split."""
    kind, name = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if kind != "gpt2" or name not in SPLITS:
        known = ", ".join(f"gpt2/{name}" for name in SPLITS)
        raise ModelError(f"vocabulary '{kind}/{name}' is not known; choose from: {known}", where=where)
    split = SPLITS[name]
    tokens = metadata["tokenizer.ggml.tokens"]
    types = metadata.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    added = [number for number, kind in enumerate(types) if kind in (CONTROL, USER_DEFINED)]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(number, tokens[number], types[number]) for number in added],
        "normalizer": split.normalizer,
        "pre_tokenizer": split.pre_tokenizer,
        "post_processor": _begin(metadata),
        "decoder": BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": split.ignore_merges,
            "vocab": {token: number for number, token in enumerate(tokens) if types[number] != UNUSED},
            "merges": [merge.split(" ") for merge in metadata["tokenizer.ggml.merges"]],
        },
    }


def tokenizer_config(metadata: Metadata, context: int) -> dict[str, Any]:
    """`tokenizer_config.json`: the special tokens by name, and the chat template if there is one."""
    tokens = metadata["tokenizer.ggml.tokens"]
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    ids = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in names.items()}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": bool(metadata.get("tokenizer.ggml.add_bos_token", False)),
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        **{name: tokens[number] for name, number in ids.items() if number is not None},
    }
    template = metadata.get("tokenizer.chat_template")
    return settings | ({"chat_template": template} if template else {})


def _begin(metadata: Metadata) -> dict[str, Any] | None:
    """What puts the begin token before a text, where the file says that a text has one."""
    number = metadata.get("tokenizer.ggml.bos_token_id")
    if number is None or not metadata.get("tokenizer.ggml.add_bos_token", False):
        return None
    token = metadata["tokenizer.ggml.tokens"][number]
    single = [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    special = {token: {"id": token, "ids": [number], "tokens": [token]}}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}


def _added_token(number: int, content: str, kind: int) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": content, "special": kind == CONTROL, **plain}
