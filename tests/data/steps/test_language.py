"""The language filter: right on real sentences, honest about mixtures, and never in doubt silently."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luban.data.document import Document
from luban.data.step import Batch, Drop, Edit
from luban.data.steps.language import Language, identify, sample
from luban.errors import ConfigError

SENTENCES = {
    "en": "The harbour was quiet in the morning, and only the gulls complained about the cold wind.",
    "de": "Der Hafen war am Morgen still, und nur die Möwen beschwerten sich über den kalten Wind.",
    "fr": "Le port était calme le matin, et seules les mouettes se plaignaient du vent froid.",
    "es": "El puerto estaba tranquilo por la mañana y solo las gaviotas se quejaban del viento frío.",
    "it": "Il porto era tranquillo al mattino e solo i gabbiani si lamentavano del vento freddo.",
    "ru": "Утром в гавани было тихо, и только чайки жаловались на холодный ветер.",
    "zh": "早晨的港口很安静，只有海鸥在抱怨寒冷的风。",
    "ja": "朝の港は静かで、カモメだけが冷たい風に文句を言っていた。",
    "ko": "아침 항구는 조용했고 갈매기들만 차가운 바람에 불평했다.",
    "ar": "كان الميناء هادئا في الصباح ولم تشتك من الريح الباردة سوى النوارس.",
}


def run(text: str, step: Language) -> Drop | Edit | None:
    [outcome] = step(Batch([Document(id="0", text=text, source="")]))
    return outcome


@pytest.mark.parametrize("code", SENTENCES)
def test_a_sentence_is_known_alone_and_repeated(code: str) -> None:
    for text in (SENTENCES[code], "\n".join([SENTENCES[code]] * 60)):
        found = run(text, Language())
        assert isinstance(found, Edit)
        assert found.meta["language"] == code
        assert found.meta["language_score"] > 0.65


def test_traditional_chinese_is_chinese() -> None:
    assert identify("早晨的港口很安靜，只有海鷗在抱怨寒冷的風。", pieces=5, piece_chars=200)[0] == "zh"


def test_other_languages_go_and_their_name_is_told() -> None:
    step = Language(keep=("en", "zh"))
    assert run(SENTENCES["fr"], step) == Drop("language", "fr")
    assert isinstance(run(SENTENCES["en"], step), Edit)


def test_a_text_half_in_another_language_scores_half() -> None:
    text = "\n".join([SENTENCES["en"]] * 60 + [SENTENCES["ru"]] * 45)
    found = run(text, Language(keep=("en",)))
    assert isinstance(found, Drop)
    assert found.reason == "language_score"
    assert isinstance(found.value, float)
    assert 0.3 < found.value < 0.65
    assert isinstance(run(text, Language(keep=("en",), threshold=0.2)), Edit)


@pytest.mark.parametrize("text", ["", "  \n ", "12345 67 890", "***"])
def test_text_without_a_language_is_und_and_dropped_where_one_is_asked_for(text: str) -> None:
    found = run(text, Language())
    assert isinstance(found, Edit)
    assert found.meta == {"language": "und", "language_score": 0.0}
    assert run(text, Language(keep=("en",))) == Drop("language", "und")


def test_a_menu_in_english_does_not_hide_the_text_below_it() -> None:
    text = "Home News About us Contact Search Login Subscribe to our newsletter\n" * 3 + SENTENCES["de"] * 40
    assert identify(text, pieces=5, piece_chars=200)[0] == "de"


def test_an_unknown_language_code_is_refused() -> None:
    with pytest.raises(ConfigError, match="'english'"):
        run("x", Language(keep=("english",)))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300), st.integers(1, 9), st.integers(1, 40))
def test_any_text_gets_a_code_and_a_score_in_bounds(text: str, pieces: int, chars: int) -> None:
    code, score = identify(text, pieces=pieces, piece_chars=chars)
    assert code == "und" or len(code) == 2
    assert 0.0 <= score <= 1.0
    assert (code, score) == identify(text, pieces=pieces, piece_chars=chars)


@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 200))
def test_a_sample_is_never_more_than_asked_for_and_reaches_the_end(
    length: int, pieces: int, chars: int
) -> None:
    found = sample("x" * (length - 1) + "y" * (length > 0), pieces=pieces, piece_chars=chars)
    assert sum(map(len, found)) <= max(pieces * chars, 2 * chars)
    assert pieces == 1 or length == 0 or found[-1].endswith("y")


def test_the_step_travels() -> None:
    step = Language(keep=("en",))
    assert pickle.loads(pickle.dumps(step)) == step
