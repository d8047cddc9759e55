import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from luban.tokenizers.stream import StreamDecoder
from tests import tiny

FAMILY = "👨‍👩‍👧 鲁班 café"


def streamed(ids: list[int], *, skip_special: bool = True) -> list[str]:
    decoder = StreamDecoder(tiny.tokenizer(), skip_special=skip_special)
    return [*(decoder.push(token) for token in ids), decoder.finish()]


def byte_ids(data: bytes) -> list[int]:
    """One token per byte, merges or not."""
    tokenizer = tiny.tokenizer()
    alphabet = {tokenizer.encode(chr(byte))[0]: byte for byte in range(128)}
    for character in (chr(point) for point in range(0x80, 0x800)):
        parts = tokenizer.encode(character)
        if len(parts) == 2:
            alphabet |= dict(zip(parts, character.encode(), strict=True))
    for character in "ก中\U00010000\U00050000\U00100000":
        parts = tokenizer.encode(character)
        if len(parts) == len(character.encode()):
            alphabet |= dict(zip(parts, character.encode(), strict=True))
    token_of = {byte: token for token, byte in alphabet.items()}
    return [token_of[byte] for byte in data if byte in token_of]


def test_a_character_comes_with_its_last_byte():
    # U+1F642 is four bytes, each its own token here: nothing, nothing, nothing, the character.
    assert streamed(byte_ids("🙂".encode())) == ["", "", "", "🙂", ""]


def test_a_character_that_never_ends_comes_as_one_replacement_at_the_end():
    assert streamed(byte_ids("a🙂".encode()[:-1])) == ["a", "", "", "", "\ufffd"]


def test_a_decoder_can_be_used_again_after_finish():
    decoder = StreamDecoder(tiny.tokenizer())
    for _ in range(2):
        assert "".join(map(decoder.push, byte_ids("é".encode()[:1]))) + decoder.finish() == "\ufffd"


@settings(max_examples=80, deadline=None)
@given(st.text())
@example(FAMILY)
@example("\ufffd\ufffdA")
def test_pieces_of_any_text_join_to_it_and_hold_whole_characters(text: str):
    pieces = streamed(tiny.tokenizer().encode(text))
    assert "".join(pieces) == text
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=40))
@example(bytes.fromhex("f09f41e4bde4bda0fffe80"))
def test_pieces_of_random_bytes_join_to_the_decoded_whole(data: bytes):
    ids = byte_ids(data)
    assert "".join(streamed(ids)) == tiny.tokenizer().decode(ids)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 383), max_size=40), st.booleans())
@example([129, 97, 0], True)
def test_pieces_of_random_ids_join_to_the_decoded_whole(ids: list[int], skip_special: bool):
    whole = tiny.tokenizer().decode(ids, skip_special=skip_special)
    assert "".join(streamed(ids, skip_special=skip_special)) == whole


@pytest.mark.parametrize("text", ["Hello world, again", " leading", "a  b"])
def test_spaces_of_a_sentencepiece_like_vocabulary_are_kept(text: str):
    tokenizer = tiny.sentencepiece_like()
    ids = tokenizer.encode(text)
    decoder = StreamDecoder(tokenizer)
    assert "".join(map(decoder.push, ids)) + decoder.finish() == tokenizer.decode(ids)
