"""The Transformer against `torch.nn.Transformer`, and against itself cached, padded and saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from luban.errors import ModelError
from luban.models import hf
from luban.models.base import Shape
from luban.models.seq2seq import shifted_right
from luban.models.transformer import Transformer, TransformerConfig
from luban.nn.positions import sinusoids

NUMBERS: dict[str, Any] = {
    "vocab": 61,
    "dim": 16,
    "layers": 2,
    "encoder_layers": 3,
    "heads": 4,
    "hidden": 24,
    "context": 32,
    "decoder_start_id": 1,
}
LENGTHS = [7, 4]


def transformer(**changes: Any) -> Transformer:
    """A tiny one with loud weights; biases and norms too, or a mistake in them would not show."""
    torch.manual_seed(3)
    model = Transformer(TransformerConfig(**(NUMBERS | changes)))
    for parameter in model.parameters():
        nn.init.normal_(parameter, mean=0.5 if parameter.ndim == 1 else 0.0, std=0.3)
    return model


@pytest.fixture(params=["post", "pre"])
def model(request: pytest.FixtureRequest) -> Transformer:
    return transformer(norm=request.param)


def tokens_of(*shape: int) -> Tensor:
    return torch.randint(61, shape, generator=torch.Generator().manual_seed(1))


def padding() -> Tensor:
    """True at the tokens of two sources of `LENGTHS`, padded on the right."""
    return torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]


def torch_reference(model: Transformer) -> nn.Transformer:
    """PyTorch's own with our weights. Post-norm stacks of the paper end without a further norm."""
    config, pre = model.config, model.config.norm == "pre"
    options: dict[str, Any] = {"dropout": 0.0, "batch_first": True, "norm_first": pre}
    sizes = (config.dim, config.heads, config.hidden)
    final = [nn.LayerNorm(config.dim) if pre else None for _ in range(2)]
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(*sizes, **options), config.encoder_layers, final[0], False
    )
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(*sizes, **options), config.layers, final[1])
    theirs = nn.Transformer(
        config.dim, config.heads, custom_encoder=encoder, custom_decoder=decoder, batch_first=True
    )
    for ours, layer in zip(model.encoder, encoder.layers, strict=True):
        layer.load_state_dict(_torch_layer(ours, {"attention": "self_attn"}, ["attention_norm", "mlp_norm"]))
    attentions = {"attention": "self_attn", "cross": "multihead_attn"}
    for ours, layer in zip(model.blocks, decoder.layers, strict=True):
        layer.load_state_dict(_torch_layer(ours, attentions, ["attention_norm", "cross_norm", "mlp_norm"]))
    for ours, norm in ((model.encoder_norm, encoder.norm), (model.norm, decoder.norm)):
        if norm is not None:
            norm.load_state_dict(ours.state_dict())
    return theirs.eval()


def _torch_layer(block: nn.Module, attentions: dict[str, str], norms: list[str]) -> dict[str, Tensor]:
    ours = block.state_dict()
    made = {}
    for leaf in ("weight", "bias"):
        for mine, name in attentions.items():
            made[f"{name}.in_proj_{leaf}"] = torch.cat([ours[f"{mine}.{part}.{leaf}"] for part in "qkv"])
            made[f"{name}.out_proj.{leaf}"] = ours[f"{mine}.o.{leaf}"]
        made[f"linear1.{leaf}"], made[f"linear2.{leaf}"] = ours[f"mlp.up.{leaf}"], ours[f"mlp.down.{leaf}"]
        made |= {f"norm{number}.{leaf}": ours[f"{name}.{leaf}"] for number, name in enumerate(norms, 1)}
    return made


def embedded(model: Transformer, tokens: Tensor) -> Tensor:
    scaled = model.embedding(tokens) * model.config.dim**0.5
    return scaled + sinusoids(torch.arange(tokens.shape[1])[None], model.config.dim)


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_sinusoids_are_those_of_the_paper() -> None:
    made = sinusoids(torch.tensor([[0, 3]]), 4)
    angles = torch.tensor([3.0, 3.0 / 100])  # 10000^(2i/4) is 1, then 100
    assert made[0, 0].tolist() == [0, 1, 0, 1]
    expected = [angles[0].sin(), angles[0].cos(), angles[1].sin(), angles[1].cos()]
    torch.testing.assert_close(made[0, 1], torch.stack(expected))


@torch.no_grad()
def test_logits_equal_torchs_transformer(model: Transformer) -> None:
    source, tokens = tokens_of(2, 7), tokens_of(2, 5)
    states = torch_reference(model)(
        embedded(model, source),
        embedded(model, tokens),
        tgt_mask=nn.Transformer.generate_square_subsequent_mask(5),
        src_key_padding_mask=~padding(),
        memory_key_padding_mask=~padding(),
    )
    assert_same(model(source, tokens, padding()), model.head(states))


@torch.no_grad()
def test_step_by_step_logits_equal_those_of_the_whole_answer(model: Transformer) -> None:
    source, tokens = tokens_of(2, 7), tokens_of(2, 5)
    decoder = model.given(model.encode(source, padding()))
    cache, logits = decoder.make_cache(batch=2, capacity=5), []
    for place in range(5):
        states = decoder.hidden(tokens[:, place : place + 1], torch.tensor([[place]]), cache)
        logits.append(decoder.head(states))
        for slot in cache:
            slot.advance(1)
    assert_same(torch.cat(logits, 1), model(source, tokens, padding()))


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_a_padded_source_gives_the_logits_of_the_source_alone(model: Transformer, side: str) -> None:
    source, tokens = tokens_of(2, 7), tokens_of(2, 5)
    valid = padding() if side == "right" else padding().flip(1)
    together = model(source, tokens, valid)
    for row in range(2):
        alone = model(source[row : row + 1][valid[row : row + 1]][None], tokens[row : row + 1])
        assert_same(together[row : row + 1], alone)


def test_a_later_token_does_not_change_earlier_logits(model: Transformer) -> None:
    source, tokens = tokens_of(1, 7), tokens_of(1, 5)
    changed = tokens.clone()
    changed[0, 3] = (changed[0, 3] + 1) % 61
    before, after = model(source, tokens), model(source, changed)
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3:], after[:, 3:])


def test_every_parameter_gets_a_gradient(model: Transformer) -> None:
    model(tokens_of(2, 7), tokens_of(2, 5)).logsumexp(-1).sum().backward()
    # A bias of all keys shifts every score of a query alike, so its gradient is zero, but it is there.
    assert [name for name, value in model.named_parameters() if value.grad is None] == []


@pytest.mark.parametrize("changes", [{}, {"norm": "post"}, {"tied": False}], ids=str)
def test_loading_what_was_saved_is_the_identity(changes: dict[str, Any], tmp_path: Path) -> None:
    model = transformer(eos_id=(2, 5), **changes)
    hf.save(model, tmp_path)
    again = hf.load(tmp_path)
    assert again.config == model.config
    source, tokens = tokens_of(2, 7), tokens_of(2, 5)
    assert torch.equal(again(source, tokens), model(source, tokens))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda weights: weights.pop("blocks.1.cross.k.bias"), r"'blocks\.1\.cross\.k\.bias' is missing"),
        (lambda weights: weights.update(extra=torch.ones(1)), "unknown weight 'extra'"),
        (lambda weights: weights.update({"norm.weight": torch.ones(3)}), r"'norm\.weight' has shape \[3\]"),
    ],
    ids=["missing", "unknown", "misshaped"],
)
def test_weights_that_do_not_fit_are_named(change: Any, told: str, tmp_path: Path) -> None:
    hf.save(transformer(), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    change(weights)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=told):
        hf.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"dim": 18}, "dim 18 is not a multiple of heads 4"),
        ({"dim": 15, "heads": 5}, "dim 15 is odd"),
        ({"decoder_start_id": 61}, "decoder_start_id 61 is outside of a vocab of 61"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ModelError, match=told):
        TransformerConfig(**(NUMBERS | change))


def test_an_unknown_entry_of_the_config_is_refused_by_name(tmp_path: Path) -> None:
    hf.save(transformer(), tmp_path)
    entries = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(entries | {"dropout": 0.1}), encoding="utf-8")
    with pytest.raises(ModelError, match="'dropout'"):
        hf.load(tmp_path)


def test_a_new_one_begins_answers_with_the_tokenizers_first_mark() -> None:
    shape = Shape(model_type="transformer", vocab=61, context=8, dim=16, layers=1, pad_id=0, eos_id=2)
    assert TransformerConfig.sized(shape).decoder_start_id == 0
    with pytest.raises(ModelError, match="neither bos, pad nor eos"):
        TransformerConfig.sized(Shape(model_type="transformer", vocab=61, context=8, dim=16, layers=1))


@pytest.mark.slow
def test_it_learns_to_reverse_a_short_string() -> None:
    torch.manual_seed(0)
    model = Transformer(
        TransformerConfig(vocab=12, dim=32, layers=1, heads=2, context=8, decoder_start_id=0, norm="pre")
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(500):
        source = torch.randint(2, 12, (64, 6))
        targets = source.flip(1)
        logits = model(source, shifted_right(targets, start=0, ignored=-100, pad=1))
        nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    source = torch.randint(2, 12, (200, 6))
    made = torch.zeros(200, 1, dtype=torch.long)
    with torch.no_grad():
        for _ in range(6):
            made = torch.cat([made, model(source, made)[:, -1:].argmax(-1)], 1)
    assert (made[:, 1:] == source.flip(1)).float().mean() > 0.99
