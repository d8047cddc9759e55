"""A tokenizer in Hugging Face's folder layout: read, used, written.

`tokenizer.json` holds vocabulary and splitting (run by the `tokenizers` library), `tokenizer_config.json` the
roles of special tokens and the chat template. What is written here, `transformers`' AutoTokenizer reads.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from luban.errors import DataError, TokenizerError, nearest
from luban.folder import read_json, write_json, write_text
from luban.tokenizers.chat import ChatTemplate, Messages, Pieces, answers_by_difference
from luban.tokenizers.specials import Marks, Specials, fresh_marks

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
SPECIALS_FILE = "special_tokens_map.json"
TEMPLATE_FILE = "chat_template.jinja"
GENERATION_FILE = "generation_config.json"
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
NO_LIMIT = 10**9  # transformers writes 10^30 as `model_max_length` where none is known
WRITTEN_ALWAYS = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "add_bos_token": False,
    "clean_up_tokenization_spaces": False,
}


class FileTokenizer:
    """A `Tokenizer` over a `tokenizers.Tokenizer`, which it takes over and sets up.

    `settings` are the entries of `tokenizer_config.json`; `stop_ids` are known ends of generation besides
    `eos_token`. Raises TokenizerError if a role is given to a token that is not in the vocabulary.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        settings: Mapping[str, Any],
        chat_template: str | None = None,
        tool_template: str | None = None,
        stop_ids: Sequence[int] = (),
        where: str = "tokenizer",
    ) -> None:
        self._backend, self._where, self._known_stops = backend, where, tuple(stop_ids)
        self._roles = {role: _token_text(settings[role]) for role in ROLES if settings.get(role)}
        self._settings = {name: value for name, value in settings.items() if name != "chat_template"}
        self._register_roles()
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True  # spelled-out specials are text; `render` places the real ones
        added = backend.get_added_tokens_decoder()
        self.special_tokens: Mapping[str, int] = {
            token.content: number for number, token in added.items() if token.special
        }
        self._vocab_size = 1 + max(backend.get_vocab(with_added_tokens=True).values())
        self._specials = Specials([token for token in added.values() if token.special])
        self._inner = _without_first_space(backend)
        self.chat_template, self._tool_template = chat_template, tool_template
        self.bos_id, self.eos_id, self.pad_id, self.unk_id = (
            self._role_id(f"{role}_token") for role in ("bos", "eos", "pad", "unk")
        )
        self.cls_id, self.sep_id, self.mask_id = (
            self._role_id(f"{role}_token") for role in ("cls", "sep", "mask")
        )

    @property
    def vocab_size(self) -> int:
        """One more than the largest id, added tokens included."""
        return self._vocab_size

    @property
    def max_length(self) -> int | None:
        """The longest input its model was made for, in tokens, if the folder says so."""
        length = self._settings.get("model_max_length")
        return int(length) if length and length < NO_LIMIT else None

    @property
    def adds_bos(self) -> bool:
        """Whether this vocabulary's models saw `bos_id` at the start of plain text (LLaMA: yes, GPT-2: no)."""
        return self.bos_id is not None and self._backend.encode("").ids[:1] == [self.bos_id]

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end a generation: `eos_id`, those of generation_config.json, the template's end of an answer.

        A base model ends a document with one token, a chat model its answer often with another.
        """
        return self._stop_ids

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; special tokens spelled out in it are ordinary text. Raises TokenizerError on surrogates."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, in parallel."""
        return _encode(self._backend, texts)

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """The text of `ids`; invalid UTF-8 becomes U+FFFD, an id outside of the vocabulary has no text."""
        return self._backend.decode(ids, skip_special_tokens=skip_special)

    def render(
        self,
        messages: Messages,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        needs_mask: bool = False,
    ) -> tuple[list[int], list[bool]]:
        """Ids of a conversation through the chat template, and which of them the assistant wrote.

        Special tokens that the template writes become their ids; the same strings inside messages or tools
        stay text. Answers are encoded apart from their prompt, as they are when they are generated.
        `needs_mask` on a template without generation blocks finds answers by difference, or raises
        TokenizerError where that is not exact.
        """
        marks = fresh_marks(messages, tools, self.chat_template, self._tool_template)
        ids: list[int] = []
        mask: list[bool] = []
        for piece, answered in self._pieces(messages, tools, add_generation_prompt, needs_mask, marks):
            new = self._encode_rendered(piece, marks, at_start=not ids)
            ids += new
            mask += [answered] * len(new)
        return ids, mask

    def render_text(
        self,
        messages: Messages,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
    ) -> str:
        """The conversation as the template writes it; `render` gives its ids."""
        marks = fresh_marks(messages, tools, self.chat_template, self._tool_template)
        pieces = self._pieces(messages, tools, add_generation_prompt, needs_mask=False, marks=marks)
        return "".join(piece for piece, _ in pieces).replace(marks.disarmed, "")

    def save(self, folder: str | Path) -> None:
        """Write the folder that `load` and AutoTokenizer read; other files in it are left alone."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / TOKENIZER_FILE, self.to_json())
        config = WRITTEN_ALWAYS | self._settings | self._roles
        if self._tool_template is not None:
            named = {"default": self.chat_template, "tool_use": self._tool_template}
            config["chat_template"] = [{"name": name, "template": text} for name, text in named.items()]
        elif self.chat_template is not None:
            config["chat_template"] = self.chat_template
        write_json(folder / CONFIG_FILE, config)
        write_json(folder / SPECIALS_FILE, self._roles)
        (folder / TEMPLATE_FILE).unlink(missing_ok=True)  # an older one would win over the config's

    def with_backend(self, backend: tokenizers.Tokenizer) -> FileTokenizer:
        """The same roles, templates and settings over another vocabulary; takes `backend` over."""
        return FileTokenizer(
            backend,
            settings=self._settings | self._roles,
            chat_template=self.chat_template,
            tool_template=self._tool_template,
            stop_ids=self._known_stops,
            where=self._where,
        )

    def to_json(self) -> str:
        """The content of `tokenizer.json`."""
        return self._backend.to_str(pretty=True)

    def vocabulary(self) -> dict[str, int]:
        """Every token as the vocabulary spells it, with its id; added tokens included."""
        return self._backend.get_vocab(with_added_tokens=True)

    def marks_answers(self) -> bool:
        """Whether the chat template has generation blocks. Raises TokenizerError if there is none."""
        return self._template(tools=None).marks_answers

    def _template(self, tools: object) -> ChatTemplate:
        source = self._tool_template if tools and self._tool_template else self.chat_template
        if source is None:
            raise TokenizerError(
                "there is no chat template, so it cannot take a conversation",
                where=self._where,
                hint="take a chat model's folder, or use plain text (prompt/completion rows, `luban generate`)",
            )
        return _compiled(source, f"{self._where} chat template", tuple(self._roles.items()))

    def _pieces(
        self, messages: Messages, tools: Any, add_generation_prompt: bool, needs_mask: bool, marks: Marks
    ) -> Pieces:
        template = self._template(tools)
        safe = self._specials.disarm([dict(message) for message in messages], marks.disarmed)
        safe_tools = self._specials.disarm(tools, marks.disarmed)
        options: dict[str, Any] = {"tools": safe_tools, "add_generation_prompt": add_generation_prompt}
        if needs_mask and not template.marks_answers:
            return answers_by_difference(template, self._specials, safe, marks, **options)
        return template.pieces(template.text(safe, marks, **options), marks)

    def _encode_rendered(self, piece: str, marks: Marks, *, at_start: bool) -> list[int]:
        ids: list[int] = []
        for text, special in self._specials.split(piece, marks.disarmed):
            if special:
                ids.append(self.special_tokens[text])
            elif text:
                first = at_start and not ids
                ids += _encode(self._backend if first else self._inner, [text])[0]
        return ids

    @functools.cached_property
    def _stop_ids(self) -> tuple[int, ...]:
        eos = [] if self.eos_id is None else [self.eos_id]
        return tuple(dict.fromkeys([*eos, *self._known_stops, *self._end_of_answer()]))

    def _end_of_answer(self) -> Iterator[int]:
        """The special token that closes an assistant's turn, learnt from the template on two short turns."""
        if self.chat_template is None:
            return
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        try:
            ids, mask = self.render(turns, needs_mask=True)
        except TokenizerError:
            return  # the template takes no such conversation; the configured ids stand
        if True in mask:
            last = len(mask) - 1 - mask[::-1].index(True)
            specials = set(self.special_tokens.values())
            answer = [token for token, written in zip(ids, mask, strict=True) if written]
            # Some templates count the line end behind the special token to the answer, some count neither.
            yield from [token for token in [*answer[::-1], *ids[last + 1 :]] if token in specials][:1]

    def _role_id(self, role: str) -> int | None:
        return self.special_tokens[self._roles[role]] if role in self._roles else None

    def _register_roles(self) -> None:
        """Tell the backend that tokens with a role are special, also where only the config says so."""
        for role, text in self._roles.items():
            if self._backend.token_to_id(text) is None:
                hint = nearest(text, self._backend.get_vocab()) if len(text) > 1 else None
                raise TokenizerError(
                    f"{role} '{text}' is not in the vocabulary", where=self._where, hint=hint
                )
        known = {
            token.content for token in self._backend.get_added_tokens_decoder().values() if token.special
        }
        missing = dict.fromkeys(text for text in self._roles.values() if text not in known)
        self._backend.add_special_tokens([AddedToken(text, special=True) for text in missing])


def load(folder: str | Path) -> FileTokenizer:
    """The tokenizer in a model's or tokenizer's folder; raises TokenizerError if it is missing or broken."""
    folder = Path(folder)
    if not (folder / TOKENIZER_FILE).is_file():
        raise TokenizerError(
            f"no {TOKENIZER_FILE} there" if folder.is_dir() else "no such folder",
            where=folder,
            hint="a model's folder, or one made by `luban tokenizer train`",
        )
    try:
        backend = tokenizers.Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    except Exception as error:  # noqa: BLE001 - the library raises nothing narrower
        raise TokenizerError(f"not a tokenizer: {error}", where=folder / TOKENIZER_FILE) from None
    settings = _read_optional(folder / SPECIALS_FILE) | _read_optional(folder / CONFIG_FILE)
    eos = _read_optional(folder / GENERATION_FILE).get("eos_token_id")
    default, tool_use = _read_templates(folder, settings.get("chat_template"))
    return FileTokenizer(
        backend,
        settings=settings,
        chat_template=default,
        tool_template=tool_use,
        stop_ids=eos if isinstance(eos, list) else [] if eos is None else [eos],
        where=str(folder),
    )


def from_gpt2(encoder_json: str | Path, vocab_bpe: str | Path) -> FileTokenizer:
    """GPT-2's tokenizer from the two files OpenAI published; equal to tiktoken's `gpt2`, id by id."""
    vocab = read_json(Path(encoder_json))
    lines = Path(vocab_bpe).read_text(encoding="utf-8").splitlines()
    merges: list[tuple[str, str]] = []
    for number, line in enumerate(lines, start=1):
        if line and not line.startswith("#version"):
            left, space, right = line.partition(" ")
            if not space or " " in right:
                raise DataError(f"a merge is two symbols, not {line!r}", where=f"{vocab_bpe}:{number}")
            merges.append((left, right))
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    settings = {"bos_token": end, "eos_token": end, "pad_token": end, "model_max_length": 1024}
    return FileTokenizer(backend, settings=settings, where=str(encoder_json))


@functools.lru_cache(maxsize=32)
def _compiled(source: str, where: str, variables: tuple[tuple[str, str], ...]) -> ChatTemplate:
    return ChatTemplate(source, where=where, variables=dict(variables))


def _encode(backend: tokenizers.Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    try:
        return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]
    except TypeError:
        wrong = next((text for text in texts if not _is_unicode(text)), None)
        if wrong is None:
            raise
        raise TokenizerError(
            f"text with half of a surrogate pair cannot be encoded: {wrong[:40]!r}",
            hint="the source cut or mis-decoded it; clean it with `luban data prepare`",
        ) from None


def _is_unicode(text: str) -> bool:
    return isinstance(text, str) and not any("\ud800" <= character <= "\udfff" for character in text)


def _read_optional(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, {} if there is no such file."""
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
    except DataError as error:
        raise TokenizerError(error.what, where=path) from None
    if not isinstance(content, dict):
        raise TokenizerError("a JSON object is expected", where=path)
    return content


def _read_templates(folder: Path, entry: Any) -> tuple[str | None, str | None]:
    """The default chat template and the one for tools, if the folder names one apart."""
    named = (
        {item["name"]: item["template"] for item in entry} if isinstance(entry, list) else {"default": entry}
    )
    if (folder / TEMPLATE_FILE).is_file():
        named["default"] = (folder / TEMPLATE_FILE).read_text(encoding="utf-8")
    return named.get("default"), named.get("tool_use")


def _token_text(token: str | Mapping[str, Any]) -> str:
    """A token named in a config: plain, or as an object with its `content`."""
    return token if isinstance(token, str) else str(token["content"])


def _without_first_space(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The same tokenizer for text that follows a special token.

    It differs only for sentencepiece-like ones that put a space before a text's first word, and only there.
    """
    layout = json.loads(backend.to_str())
    splitters = layout["pre_tokenizer"] or {}
    first_only = [
        splitter
        for splitter in splitters.get("pretokenizers", [splitters])
        if splitter.get("prepend_scheme") == "first"
    ]
    if not first_only:
        return backend
    for splitter in first_only:
        splitter["prepend_scheme"] = "never"
    inner = tokenizers.Tokenizer.from_str(json.dumps(layout))
    inner.encode_special_tokens = True
    return inner
