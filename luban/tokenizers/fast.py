"""The same ids several times as fast: a byte-level BPE vocabulary run by `tiktoken`, where that is exact.

`tokenizers` merges the pairs that its list of merges names, in the list's order; `tiktoken` merges any pair whose
bytes are a token, lowest rank first. Both agree on every text if each token, encoded alone, comes out as itself
and is made of tokens ranked before it: merges never cross a border that is still there at the end, so the bytes
between two borders are merged as if they stood alone. `fast_encoder` checks just that, and refuses otherwise.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from luban.tokenizers.kinds import BYTES, GPT2_SPLIT

if TYPE_CHECKING:
    from luban.tokenizers.files import FileTokenizer

# GPT-2's split of what lies between digits: a gap ends before a digit as it does at the end of a text.
GPT2_DIGITS_SPLIT = r"\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+"
PROBES = (
    "It's we'LL they'Re I'm I'D 'ſ o'clock;  well,\r\n\r\n\tgo.   \n \n x",
    "1 23 456 7890 1234567890 3.14 2024-11-22 ²½Ⅷ٣٤ 一二 x1y22 a 1  2   3\n4",
    "鲁班造锯：木匠的祖师，２０２４年。「道」可道，非常道。 ひらがなカタカナ 한국어 텍스트",
    "العربية مَرحَبا हिन्दी क्षत्रिय ไทยภาษา Ελληνικά Русский язык ʼn ǅ e\u0301 né\u200bx \u00a0\u3000\u2028\u0085y",
    "def f(x):\n    return x**2  # 注释 👨‍👩‍👧 🇨🇳\n\tif (a<=b) { c[i]++; } //\x00\x1f\x7f\ufffe\U0010ffff",
    "<|endoftext|> <|im_start|>user\n<s></s> ",
)
"""Texts on which a converted vocabulary is tried: contractions, digits, gaps, scripts, signs, specials as text."""
LONG_TEXT = 500_000
LONG_GAP = re.compile(r"\s{100000}")
"""More of this exhausts the backtracking stack of `tiktoken`'s regular expressions (a million steps)."""


class NotConvertible(Exception):  # noqa: N818 - an answer, not a mistake
    """Why `tiktoken` would not, or could not be shown to, give the same ids."""


@dataclass(frozen=True)
class FastEncoder:
    """Encodes as the tokenizer does that it was made from, to arrays instead of lists."""

    slow: FileTokenizer
    """That tokenizer, for the rare texts that `tiktoken` cannot take: a huge gap, a byte without a token,
    a character newer than some library's tables."""
    encoding: Any
    """`tiktoken.Encoding` over ranks, not ids."""
    ids: np.ndarray  # int64 [ranks]: -1 for a byte that has no token
    lengths: np.ndarray  # int64 [ranks]: bytes
    added: re.Pattern[str] | None
    """Added tokens that count wherever they stand in a text, to be captured."""
    added_ids: dict[str, int]
    known: set[str] = field(default_factory=set[str])
    """Characters met so far that Python's Unicode tables know."""

    def encode(self, text: str) -> np.ndarray:
        """Ids (int64) of `text`. Raises TokenizerError on half of a surrogate pair."""
        try:
            size = len(text.encode("utf-8"))
        except UnicodeEncodeError:
            return self._slowly(text)  # says what is wrong
        if (len(text) > LONG_TEXT and LONG_GAP.search(text)) or not self._all_known(text):
            return self._slowly(text)
        if self.added is None:
            return self._plain(text, size)
        # An odd place of the split is an added token.
        pieces = [
            np.array([self.added_ids[piece]]) if place % 2 else self._plain(piece, len(piece.encode("utf-8")))
            for place, piece in enumerate(self.added.split(text))
        ]
        return np.concatenate(pieces)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """`encode` of each text; one core (processes are the parallelism)."""
        return [self.encode(text) for text in texts]

    def _all_known(self, text: str) -> bool:
        """Whether each character is old enough for the Unicode tables of all libraries to agree on it."""
        if text.isascii():
            return True
        new = set(text) - self.known
        fresh = {character for character in new if unicodedata.category(character) != "Cn"}
        self.known.update(fresh)
        return len(fresh) == len(new)

    def _plain(self, text: str, size: int) -> np.ndarray:
        ranks = np.array(self.encoding.encode_ordinary(text), np.int64)
        ids = self.ids[ranks]
        # Lost bytes: the split pattern passes over some of the text.
        exact = int(self.lengths[ranks].sum()) == size and (not len(ids) or ids.min() >= 0)
        return ids if exact else self._slowly(text)

    def _slowly(self, text: str) -> np.ndarray:
        return np.array(self.slow.encode(text), np.int64)


def fast_encoder(tokenizer: FileTokenizer, *, samples: Sequence[str] = ()) -> FastEncoder:
    """An encoder whose ids are those of `tokenizer`; tried on `PROBES` and `samples` before it is given out.

    Raises NotConvertible with the reason if there is none: another kind of model, a normaliser, a split that is
    not known to be the same in both libraries, a token that merges cannot reach, `tiktoken` not installed.
    """
    try:
        import tiktoken
    except ModuleNotFoundError:
        raise NotConvertible("tiktoken is not installed (pip install 'luban[data]')") from None
    layout = json.loads(tokenizer.to_json())
    vocab, merges = _plain_bpe(layout["model"])
    pattern = split_pattern(layout["pre_tokenizer"])
    if layout["normalizer"] is not None:
        raise NotConvertible(f"it normalises text ({layout['normalizer']['type']})")
    added, added_ids = _added(layout["added_tokens"])
    signs = byte_signs()
    tokens = [*signs, *("".join(pair) for pair in merges)]
    _check_reachable(vocab, merges, tokens)
    values = {sign: byte for byte, sign in enumerate(signs)}
    if not set("".join(tokens)) <= set(values):
        raise NotConvertible("its merges are not of bytes")
    spelled = [bytes(values[sign] for sign in token) for token in tokens]
    ranks = {token: rank for rank, token in enumerate(spelled)}
    encoder = FastEncoder(
        tokenizer,
        tiktoken.Encoding("luban", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}),
        np.array([vocab.get(token, -1) for token in tokens], np.int64),
        np.array([len(token) for token in spelled], np.int64),
        added,
        added_ids,
    )
    _check_equal(encoder, tokenizer, [*PROBES, *samples])
    return encoder


def byte_signs() -> list[str]:
    """GPT-2's printable sign of each byte: itself where printable, else the next free one from U+0100."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    free = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(free)) for byte in range(BYTES)]


def split_pattern(splitter: dict[str, Any] | None) -> str:
    """The regular expression that cuts text as a `pre_tokenizer` entry does; raises NotConvertible."""
    steps = (splitter or {}).get("pretokenizers", [splitter])
    last = steps[-1] or {}
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        raise NotConvertible("its text is not split into bytes as it stands")
    if len(steps) == 1 and last.get("use_regex", True):
        return GPT2_SPLIT
    if len(steps) == 2:
        first = steps[0]
        plain = first["type"] == "Split" and first["behavior"] == "Isolated" and not first["invert"]
        if plain and not last.get("use_regex", True) and "Regex" in first["pattern"]:
            return first["pattern"]["Regex"]
        if first["type"] == "Digits" and first["individual_digits"] and last.get("use_regex", True):
            return GPT2_DIGITS_SPLIT
    raise NotConvertible(f"its split is not known: {', '.join(step['type'] for step in steps)}")


def _plain_bpe(model: dict[str, Any]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a byte-level BPE without extras."""
    if model["type"] != "BPE":
        raise NotConvertible(f"it is {model['type']}, not byte-level BPE")
    extras = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    if present := [name for name in extras if model.get(name)]:
        raise NotConvertible(f"its BPE has a {present[0]}")
    merges = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]
    vocab: dict[str, int] = model["vocab"]
    made = {*byte_signs(), *("".join(pair) for pair in merges)}
    if model.get("ignore_merges") and not set(vocab) <= made:
        raise NotConvertible("it takes whole words that merges do not make")
    return vocab, cast("list[tuple[str, str]]", merges)


def _added(tokens: Sequence[dict[str, Any]]) -> tuple[re.Pattern[str] | None, dict[str, int]]:
    """A pattern of the added tokens that are found in plain text, and their ids; specials are not."""
    plain = [token for token in tokens if not token["special"]]
    if fussy := [t for t in plain if t["lstrip"] or t["rstrip"] or t["single_word"]]:
        raise NotConvertible(f"added token {fussy[0]['content']!r} depends on what stands around it")
    if not plain:
        return None, {}
    ids = {token["content"]: token["id"] for token in plain}
    longest_first = sorted(ids, key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, longest_first))})"), ids


def _check_reachable(vocab: dict[str, int], merges: Sequence[tuple[str, str]], tokens: list[str]) -> None:
    """Raise NotConvertible unless each merge joins tokens made before it, and each token encodes as itself."""
    import tokenizers

    rank = {token: number for number, token in enumerate(tokens)}
    if len(rank) < len(tokens):
        raise NotConvertible("two merges make the same token")
    for number, pair in enumerate(merges, BYTES):
        if not all(rank.get(part, number) < number for part in pair):
            raise NotConvertible(f"merge {' '.join(pair)!r} stands before its parts")
    bare = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=list(merges)))
    made = tokens[BYTES:]
    alone = bare.encode_batch(made, add_special_tokens=False)
    lost = [token for token, found in zip(made, alone, strict=True) if found.ids != [vocab[token]]]
    if lost:
        raise NotConvertible(f"merges cannot reach {len(lost)} of its tokens, such as {lost[0]!r}")


def _check_equal(encoder: FastEncoder, tokenizer: FileTokenizer, texts: Sequence[str]) -> None:
    for text, expected in zip(texts, tokenizer.encode_batch(texts), strict=True):
        if encoder.encode(text).tolist() != expected:
            raise NotConvertible(f"tiktoken gave other ids on {text[:40]!r}")
