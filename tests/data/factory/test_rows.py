"""A document's line is the same bytes, written from scratch or from the line that it was read from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from luban.data.document import Document
from luban.data.factory import rows, tally
from luban.data.factory.publish import publish
from luban.data.factory.run import Means
from luban.data.step import Edit

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.one_of(
    TEXT, st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False), st.lists(TEXT), st.none()
)
KEYS = st.sampled_from(["url", "split", "dropped", "score", 'a"b', "text", "id"])
META = st.dictionaries(KEYS, VALUES, max_size=3)


def stored(document: Document) -> Document:
    with TemporaryDirectory() as name:
        path = Path(name) / "rows.jsonl"
        path.write_bytes(rows.dump(document))
        (found,) = rows.read(path)
    return found


@given(
    meta=META.map(lambda meta: {key: value for key, value in meta.items() if key not in rows.NAMED}),
    text=TEXT,
    new=META,
    own=st.none() | TEXT,
    other=st.none() | TEXT,
)
@example(meta={"split": "test"}, text="a", new={"split": "holdout"}, own=None, other=None)
@example(meta={}, text="a", new={"text": "hides the text"}, own=None, other=None)
@example(meta={}, text="a", new={}, own="other", other=None)
def test_an_edited_document_is_written_as_if_it_had_not_been_read(
    meta: Mapping[str, Any], text: str, new: Mapping[str, Any], own: str | None, other: str | None
) -> None:
    document = Document(id="1", text=text, source="s", meta=dict(meta))
    edit = Edit(meta=new, id=own, text=other)
    dropped = {"step": "x", "reason": "short", "value": 0.5}
    fresh, read = rows.edited(document, edit), rows.edited(stored(document), edit)
    assert rows.dump(read) == rows.dump(fresh)
    assert rows.dump(read, dropped=dropped) == rows.dump(fresh, dropped=dropped)


def test_a_line_that_only_gained_entries_is_not_made_anew() -> None:
    document = stored(Document(id="1", text="a", source="s"))
    edited = rows.edited(document, Edit(meta={"split": "train"}))
    assert isinstance(edited, rows.Stored)
    assert edited.line == b'{"id":"1","text":"a","source":"s","split":"train"}\n'
    assert not isinstance(rows.edited(edited, Edit(meta={"split": "holdout"})), rows.Stored)


def test_rows_go_to_their_side_wherever_they_say_it(tmp_path: Path) -> None:
    lines = {
        "holdout": [
            b'{"id":"1","text":"a","source":"s","split":"holdout"}\n',
            b'{"id":"2","split":"holdout","text":"b","source":"s","url":"u"}\n',
            b'{"id":"3","text":"c","source":"s","split":"holdout","a":{"split":"train"}}\n',
        ],
        "train": [
            b'{"id":"4","text":"d","source":"s","split":"train"}\n',
            b'{"id":"5","text":"e","source":"s","split":"train","a":",\\"split\\":\\"holdout\\"}"}\n',
        ],
    }
    kept = tmp_path / "stages" / "00-split" / "00000.jsonl"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"".join(lines["train"] + lines["holdout"]))
    publish([kept], tmp_path, Means("pool", 1, 1 << 30))
    assert (tmp_path / "holdout.jsonl").read_bytes() == b"".join(lines["holdout"])
    assert (tmp_path / "train-00000.jsonl").read_bytes() == b"".join(lines["train"])


def test_kept_documents_are_counted_by_all_that_a_card_tells() -> None:
    meta = {"language": "en", "date": "2020-05-01", "split": "holdout"}
    documents = [
        Document(id="1", text="é" * 5, source="a/1", meta=meta),
        Document(id="2", text="x" * 7, source="a/2", meta=meta),
        Document(id="3", text="", source="b", meta={"language": ["en", "de"]}),
    ]
    counts = tally.empty()
    tally.describe(counts, documents, [10, 7, 0])
    both, one = {"documents": 2, "bytes": 17}, {"documents": 1, "bytes": 0}
    assert counts["kept"] == {
        "source": {"a": both, "b": one},
        "language": {"en": both, "['en', 'de']": one},
        "license": {"": {"documents": 3, "bytes": 17}},
        "length": {"4": both, "0": one},
        "year": {"2020": both, "": one},
    }
    assert counts["sides"] == {"holdout": {"documents": 2, "chars": 12}}
