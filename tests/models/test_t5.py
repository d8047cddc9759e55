"""T5 apart from its logits: classes of distance, its bias, its first weights, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.t5.modeling_t5 import T5Attention

from luban.errors import ModelError
from luban.models import hf
from luban.models.base import Shape
from luban.models.t5 import T5, Query, T5Config, bucket_of
from luban.nn.attention import Attention
from tests.models.seq2seq_references import VOCAB, reference, tokens_of

NUMBERS: dict[str, Any] = {
    "vocab": VOCAB,
    "dim": 16,
    "layers": 2,
    "heads": 2,
    "head_dim": 8,
    "hidden": 24,
    "buckets": 8,
    "max_distance": 12,
    "decoder_start_id": 0,
}


def t5(**changes: Any) -> T5:
    torch.manual_seed(0)
    return T5(T5Config(**(NUMBERS | changes)))


def test_near_distances_are_classes_of_their_own_and_far_ones_share() -> None:
    # 32 classes to distance 128: 0 to 15 alone; then 16 + floor(16 * log(d / 16) / log(8)).
    distances = torch.tensor([0, 1, 15, 16, 17, 18, 19, 20, 21, 30, 31, 60, 64, 113, 127, 128, 900, -5])
    expected = [0, 1, 15, 16, 16, 16, 17, 17, 18, 20, 21, 26, 26, 31, 31, 31, 31, 0]
    assert bucket_of(distances, buckets=32, max_distance=128, causal=True).tolist() == expected


def test_seen_from_both_sides_each_has_half_of_the_classes() -> None:
    # 8 classes to distance 12: 4 a side, 0 and 1 alone, then 2 + floor(2 * log(d / 2) / log(6)).
    distances = torch.tensor([0, 1, 2, 4, 5, 11, 40, -1, -2, -5, -12])
    expected = [0, 1, 2, 2, 3, 3, 3, 5, 6, 7, 7]
    assert bucket_of(distances, buckets=8, max_distance=12, causal=False).tolist() == expected


@given(
    distance=st.integers(-3000, 3000),
    buckets=st.sampled_from([4, 8, 32, 64]),
    widest=st.integers(33, 500),
    causal=st.booleans(),
)
def test_classes_equal_those_of_transformers(distance: int, buckets: int, widest: int, causal: bool) -> None:
    theirs = T5Attention._relative_position_bucket(
        torch.tensor([-distance]), bidirectional=not causal, num_buckets=buckets, max_distance=widest
    )
    ours = bucket_of(torch.tensor([distance]), buckets=buckets, max_distance=widest, causal=causal)
    assert ours.tolist() == theirs.tolist()


def test_all_blocks_of_a_side_share_one_table() -> None:
    tables = [name for name, _ in t5().named_parameters() if "distances" in name]
    assert tables == ["encoder.distances.table.weight", "distances.table.weight"]


@torch.no_grad()
def test_a_text_may_be_far_longer_than_the_largest_distance() -> None:
    assert t5()(tokens_of(1, 90), tokens_of(1, 70)).isfinite().all()


@torch.no_grad()
def test_joining_products_for_inference_leaves_the_scores_as_they_are() -> None:
    model = t5()
    before = model(tokens_of(1, 6), tokens_of(1, 5))
    for module in model.modules():
        if isinstance(module, Attention):
            module.join()
    assert torch.equal(model(tokens_of(1, 6), tokens_of(1, 5)), before)


def test_first_weights_keep_the_variance_of_what_goes_in() -> None:
    model = t5(dim=256, heads=4, head_dim=64, hidden=512, vocab=500, tied=False)
    expected = {
        "embedding": 1.0,
        "head": 256**-0.5,
        "blocks.0.attention.q": (256 * 64) ** -0.5,
        "blocks.0.attention.k": 256**-0.5,
        "blocks.0.cross.q": (256 * 64) ** -0.5,
        "blocks.0.cross.o": 256**-0.5,
        "blocks.0.mlp.wide": 256**-0.5,
        "blocks.0.mlp.down": 512**-0.5,
    }
    for name, std in expected.items():
        assert model.get_parameter(f"{name}.weight").std().item() == pytest.approx(std, rel=0.05), name
    assert isinstance(model.blocks[0].get_submodule("attention.q"), Query)


def test_a_scaled_head_is_a_tied_one_unless_told_otherwise() -> None:
    assert T5Config(**NUMBERS).scaled
    assert not T5Config(**NUMBERS, tied=False).scaled
    assert T5Config(**NUMBERS, tied=False, scaled=True).scaled


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"architectures": ["T5EncoderModel"]}, "'architectures' is ['T5EncoderModel']"),
        ({"feed_forward_proj": "gated-silu"}, "'feed_forward_proj' is 'gated-silu'"),
        ({"dense_act_fn": "silu"}, "'dense_act_fn' is 'silu'; supported: 'relu'"),
        ({"is_gated_act": True}, "'is_gated_act' is True"),
        ({"d_kv": None}, "entry 'd_kv' is missing"),
        ({"relative_attention_num_buckets": 30}, "buckets 30 is not a multiple of 4"),
        ({"relative_attention_max_distance": 4}, "max_distance 4 is within the 4 distances"),
        ({"decoder_start_token_id": 99}, "decoder_start_id 99 is outside of a vocab of 53"),
        ({"decoder_start_token_id": None, "pad_token_id": None}, "entry 'decoder_start_token_id' is missing"),
        ({"num_layers": None, "num_decoder_layers": None}, "neither layers nor encoder_layers"),
    ],
)
def test_a_config_we_cannot_honour_is_refused(entries: dict[str, Any], told: str, tmp_path: Path) -> None:
    hf.save(t5(), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | entries), encoding="utf-8")
    with pytest.raises(ModelError) as error:
        hf.load(tmp_path)
    assert told in str(error.value)


def test_a_new_t5_is_of_version_1_1() -> None:
    shape = Shape(model_type="t5", vocab=90, context=40, dim=128, layers=3, bos_id=4, eos_id=5, pad_id=6)
    config = T5Config.sized(shape)
    assert (config.mlp, config.heads, config.head_dim, config.hidden) == ("gated-gelu", 2, 64, 352)
    assert (config.encoder_layers, config.decoder_start_id, config.scaled) == (3, 6, True)
    with pytest.raises(ModelError, match="kv_heads 1 for 2 heads"):
        T5Config.sized(Shape(model_type="t5", vocab=9, context=9, dim=128, layers=1, kv_heads=1, pad_id=0))


def test_a_head_of_its_own_in_a_file_that_says_tied_is_refused_with_the_remedy(tmp_path: Path) -> None:
    _, folder = reference("t5 own head")  # transformers 5 writes "tie_word_embeddings": true for these too
    shutil.copytree(folder, tmp_path / "model")
    with pytest.raises(ModelError, match=r"'lm_head.weight' differs from 'shared.weight'") as error:
        hf.load(tmp_path / "model")
    assert '"tie_word_embeddings": false' in str(error.value)
