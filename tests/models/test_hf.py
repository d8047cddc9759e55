"""Model folders: what is read, what is refused and how, what is left on disk."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from luban.errors import ModelError
from luban.models import hf
from tests import tiny
from tests.models.references import logits_of, reference

UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved tiny LLaMA, to be damaged."""
    torch.manual_seed(0)
    hf.save(tiny.llama(), tmp_path / "model")
    return tmp_path / "model"


def edit_config(folder: Path, **entries: Any) -> None:
    path = folder / "config.json"
    kept = json.loads(path.read_text(encoding="utf-8")) | entries
    path.write_text(json.dumps({k: v for k, v in kept.items() if v != "drop"}), encoding="utf-8")


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    change(weights)
    save_file(weights, folder / "model.safetensors")


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        hf.load(folder)
    return str(caught.value)


def test_a_missing_weight_is_named(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights.pop(UP))
    assert f"'{UP}' is missing (1 of 21" in refusal(folder)


def test_an_unknown_weight_is_named(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights.update({"model.layers.2.extra.weight": torch.zeros(1)}))
    assert "unknown weight 'model.layers.2.extra.weight'" in refusal(folder)


def test_a_misshaped_weight_is_named_with_both_shapes(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights.update({UP: torch.zeros(48, 31)}))
    message = refusal(folder)
    assert UP in message
    assert "[48, 31]" in message
    assert "[48, 32]" in message


def test_quantised_weights_are_refused(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights.update({UP: torch.zeros(48, 32, dtype=torch.int8)}))
    assert "torch.int8" in refusal(folder)


def test_an_untied_model_without_a_head_says_how_to_tie(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights.pop("lm_head.weight"))
    assert '"tie_word_embeddings": true' in refusal(folder)


def test_a_tied_model_may_repeat_its_head(folder: Path) -> None:
    def repeat(weights: dict[str, torch.Tensor]) -> None:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()

    edit_weights(folder, repeat)
    edit_config(folder, tie_word_embeddings=True)
    model = hf.load(folder)
    assert model.head.weight is model.embedding.weight


def test_a_tied_model_with_another_head_is_refused(folder: Path) -> None:
    edit_config(folder, tie_word_embeddings=True)
    assert "differs from 'model.embed_tokens.weight'" in refusal(folder)


def test_rotation_tables_of_old_files_are_skipped(folder: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_weights(folder, lambda weights: weights.update({name: torch.zeros(4)}))
    hf.load(folder)


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_gpt2_files_load_with_and_without_prefix_and_mask_buffers(prefix: str, tmp_path: Path) -> None:
    theirs, source = reference("gpt2")
    shutil.copy(source / "config.json", tmp_path)
    weights = load_file(source / "model.safetensors")
    renamed = {prefix + name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
    renamed[f"{prefix}h.0.attn.bias"] = torch.ones(1, 1, 64, 64)
    renamed[f"{prefix}h.0.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(renamed, tmp_path / "model.safetensors")
    tokens = torch.arange(12)[None]
    torch.testing.assert_close(
        hf.load(tmp_path)(tokens).detach(), logits_of(theirs, tokens), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("damage", [b"", b"\x00" * 100, b"not safetensors at all"])
def test_a_corrupted_file_is_refused(folder: Path, damage: bytes) -> None:
    (folder / "model.safetensors").write_bytes(damage)
    assert "model.safetensors: not readable as safetensors" in refusal(folder)


def test_a_truncated_file_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    assert "not readable as safetensors" in refusal(folder)


def test_a_folder_without_config_is_no_model(tmp_path: Path) -> None:
    assert "not a model folder: no config.json" in refusal(tmp_path)


def test_a_folder_without_weights_says_which_files_it_looked_for(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    message = refusal(folder)
    assert "neither model.safetensors nor model.safetensors.index.json" in message
    assert "convert pytorch_model.bin" in message


def test_malformed_json_is_named(folder: Path) -> None:
    (folder / "config.json").write_text("{", encoding="utf-8")
    assert "config.json: not valid JSON" in refusal(folder)


def test_an_unknown_family_is_answered_with_the_choices(folder: Path) -> None:
    edit_config(folder, model_type="blossom")
    assert "unknown model_type 'blossom'; did you mean 'bloom'?" in refusal(folder)


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"hidden_size": "drop"}, "entry 'hidden_size' is missing"),
        ({"num_hidden_layers": "many"}, "num_hidden_layers"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, "heads 4 is not a multiple of kv_heads 3"),
        ({"hidden_act": "relu"}, "'hidden_act' is 'relu'"),
        ({"attention_bias": True}, "'attention_bias' is True"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "unknown rope_type 'longrope'"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": "much"}}, "factor is 'factor'"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "mscale": 1.0}}, "'mscale' is 1.0"),
        ({"rope_parameters": {"rope_type": "default", "mrope_section": [1]}}, "'mrope_section' is [1]"),
        ({"rope_parameters": {"rope_type": "linear"}}, "needs 'factor'"),
        ({"rope_parameters": {"full_attention": {}}}, "differ by layer"),
        ({"quantization_config": {"bits": 4}}, "'quantization_config'"),
        ({"layer_types": ["sliding_attention", "full_attention"]}, "'layer_types' is ['sliding_attention'"),
        ({"model_type": "qwen2", "layer_types": ["full_attention"]}, "'layer_types' is ['full_attention']"),
        ({"model_type": "mixtral", "num_experts_per_tok": 2}, "experts is 0 for mixtral"),
        ({"model_type": "mixtral", "num_local_experts": 2}, "experts_per_token is 0 of 2"),
        ({"model_type": "qwen3_moe", "decoder_sparse_step": 2}, "'decoder_sparse_step' is 2"),
        ({"model_type": "qwen3_moe", "mlp_only_layers": [0]}, "'mlp_only_layers' is [0]"),
    ],
)
def test_a_config_we_cannot_honour_is_refused(folder: Path, entries: dict[str, Any], told: str) -> None:
    edit_config(folder, **entries)
    message = refusal(folder)
    assert told in message
    assert str(folder / "config.json") in message


def test_both_ages_of_rope_entries_are_read(folder: Path) -> None:
    scaling = {"type": "linear", "factor": 2.0}
    edit_config(
        folder, rope_parameters="drop", rope_theta=500.0, rope_scaling=scaling, torch_dtype="bfloat16"
    )
    old = hf.load_config(folder)
    new = {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}
    edit_config(folder, rope_theta="drop", rope_scaling="drop", rope_parameters=new)
    assert hf.load_config(folder) == old
    assert (old.rope_theta, old.rope_scaling.factor) == (500.0, 2.0)


def test_several_end_ids_are_kept(folder: Path) -> None:
    edit_config(folder, eos_token_id=[7, 9])
    assert hf.load_config(folder).eos_id == (7, 9)
    assert hf.load_config(folder).to_hf()["eos_token_id"] == (7, 9)


def test_shards_load_here_and_in_transformers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = tiny.llama()
    hf.save(model, tmp_path, shard_bytes=40_000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text(encoding="utf-8"))
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(files) > 2
    assert files == sorted(set(index["weight_map"].values()))
    assert index["metadata"]["total_size"] == sum(p.nbytes for p in model.parameters())
    tokens = torch.arange(9)[None]
    expected = model(tokens).detach()
    torch.testing.assert_close(hf.load(tmp_path)(tokens).detach(), expected)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits_of(theirs, tokens), expected, atol=1e-4, rtol=0)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    hf.save(tiny.llama(), tmp_path, shard_bytes=40_000)
    lost = sorted(tmp_path.glob("model-00002-*"))[0]
    lost.unlink()
    assert f"shard '{lost.name}' is missing" in refusal(tmp_path)


def test_saving_again_leaves_no_stale_shards(tmp_path: Path) -> None:
    hf.save(tiny.llama(), tmp_path, shard_bytes=40_000)
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    hf.save(tiny.llama(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]


def test_saving_over_the_folder_a_model_is_mapped_from_keeps_it(folder: Path) -> None:
    model = hf.load(folder)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    hf.save(model, folder)
    again = hf.load(folder).state_dict()
    for name, value in before.items():
        assert torch.equal(model.state_dict()[name], value)
        assert torch.equal(again[name], value)


def test_training_a_mapped_model_does_not_change_its_file(folder: Path) -> None:
    original = (folder / "model.safetensors").read_bytes()
    model = hf.load(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert (folder / "model.safetensors").read_bytes() == original


def test_a_failed_save_leaves_the_old_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(hf, "save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        hf.save(tiny.llama(), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_saved_files_can_be_read_by_others(folder: Path) -> None:
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o644, path.name


def test_the_saved_dtype_is_the_weights_own(tmp_path: Path) -> None:
    hf.save(tiny.llama().bfloat16(), tmp_path)
    assert hf.load_config(tmp_path).dtype == "bfloat16"
    assert hf.load(tmp_path).embedding.weight.dtype == torch.float32
    assert hf.load(tmp_path, dtype="auto").embedding.weight.dtype == torch.bfloat16


def test_loading_does_not_import_torchs_compiler(folder: Path) -> None:
    code = (
        "import sys; from luban.models import hf; hf.load(sys.argv[1]); print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_build_takes_a_config_or_hugging_face_entries() -> None:
    config = tiny.gpt2().config
    torch.manual_seed(3)
    first = hf.build(config)
    torch.manual_seed(3)
    second = hf.build(config.to_hf())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
