"""BART apart from its logits: classification, translation by a second encoder, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers

from luban.errors import ModelError, PromptError
from luban.models import hf
from luban.models.bart import Bart, BartConfig
from luban.models.bart_translation import FIRST, BartTranslator, Phase
from luban.models.base import Shape
from luban.models.seq2seq import shifted_right
from luban.tokenizers.added import with_tokens
from luban.training.answers import Sides, learn_targets
from luban.tuning.vocabulary import resize
from tests import tiny
from tests.models.seq2seq_references import BART_BODY, END, PAD, VOCAB, scratch, stir, tokens_of

NUMBERS: dict[str, Any] = {
    "vocab": VOCAB,
    "dim": 16,
    "layers": 2,
    "heads": 2,
    "context": 12,
    "eos_id": END,
    "pad_id": PAD,
    "decoder_start_id": END,
}


def bart(**changes: Any) -> Bart:
    torch.manual_seed(0)
    return Bart(BartConfig(**(NUMBERS | changes)))


def classifier() -> tuple[Any, Path]:
    torch.manual_seed(0)
    labels = {0: "bad", 1: "fair", 2: "good", 3: "best"}
    config = transformers.BartConfig(**BART_BODY, id2label=labels, label2id={v: k for k, v in labels.items()})
    model = transformers.BartForSequenceClassification(config).eval()
    stir(model)
    folder = Path(scratch().name) / "classifier"
    model.save_pretrained(folder)
    return model, folder


@torch.no_grad()
def test_labels_are_told_from_the_state_of_the_last_end_token_as_in_transformers(tmp_path: Path) -> None:
    theirs, folder = classifier()
    model = hf.load(folder)
    assert model.config.labels == ("bad", "fair", "good", "best")
    tokens = tokens_of(3, 10)
    lengths = torch.tensor([10, 4, 7])
    tokens[torch.arange(3), lengths - 1] = END
    tokens[0, 4] = tokens[2, 2] = tokens[1, 1] = END  # an earlier one, between two sentences
    valid = torch.arange(10) < lengths[:, None]
    tokens[~valid] = PAD
    expected = theirs(tokens, attention_mask=valid.long()).logits
    torch.testing.assert_close(model.classify(tokens, valid), expected, atol=1e-4, rtol=0)
    hf.save(model, tmp_path)
    again, report = transformers.BartForSequenceClassification.from_pretrained(
        tmp_path, output_loading_info=True
    )  # pyright: ignore[reportGeneralTypeIssues] - two values where the report is asked for
    assert not any(report.values()), report
    torch.testing.assert_close(again(tokens, attention_mask=valid.long()).logits, expected)
    assert again.config.id2label[3] == "best"
    assert hf.load(tmp_path).config == model.config


def test_a_text_without_an_end_token_is_not_classified() -> None:
    tokens = tokens_of(2, 5)
    tokens[0, 4] = END
    with pytest.raises(PromptError, match="text 1 has no end token 2"):
        bart(labels=("a", "b"), final_bias=False).classify(tokens)


def texts_with_a_sign(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts, and whether each holds token 50."""
    tokens, labels = tokens_of(32, 7, seed=seed) % 40 + 4, torch.tensor([1, 0] * 16)
    tokens[::2, 3] = 50
    tokens[:, -1] = END
    return tokens, labels


def test_a_classifier_learns_which_token_a_text_holds() -> None:
    model = bart(labels=("no", "yes"), final_bias=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(40):
        tokens, labels = texts_with_a_sign(seed=step)
        optimizer.zero_grad()
        F.cross_entropy(model.classify(tokens), labels).backward()
        optimizer.step()
    tokens, labels = texts_with_a_sign(seed=99)
    assert bool((model.classify(tokens).argmax(1) == labels).all())


@torch.no_grad()
def test_a_file_without_head_is_read_and_its_logits_have_no_bias(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = transformers.BartModel(transformers.BartConfig(**BART_BODY)).eval()
    theirs.save_pretrained(tmp_path / "body")
    model = hf.load(tmp_path / "body")
    source, tokens = tokens_of(2, 9), tokens_of(2, 5)
    states = theirs(input_ids=source, decoder_input_ids=tokens).last_hidden_state
    expected = states @ theirs.shared.weight.T
    torch.testing.assert_close(model(source, tokens), expected, atol=1e-4, rtol=0)
    hf.save(model, tmp_path / "ours")
    again = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "ours").eval()
    torch.testing.assert_close(
        again(input_ids=source, decoder_input_ids=tokens).logits, expected, atol=1e-4, rtol=0
    )


def translator() -> BartTranslator:
    """Around a BART with weights as loud as trained ones, that is worth speaking to."""
    model = bart()
    for parameter in model.parameters():
        if parameter.ndim > 1 and parameter is not model.final_bias:
            torch.nn.init.normal_(parameter, std=0.2)
    return BartTranslator(model, source_vocab=60, layers=1)


def sides(rows: int = 16) -> Sides:
    """Foreign words are the home ones plus 20."""
    targets = tokens_of(rows, 6) % 16 + 4
    return Sides(targets + 20, torch.ones_like(targets, dtype=torch.bool), targets)


def trained(model: BartTranslator, phase: Phase, steps: int) -> list[float]:
    model.train_phase(phase)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=3e-3, weight_decay=0.1)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        step = learn_targets(model, sides())
        (step.loss / step.targets).backward()
        optimizer.step()
        losses.append(step.loss.item() / step.targets)
    return losses


def test_the_first_phase_of_translation_moves_only_the_source_encoder_and_what_it_speaks_to() -> None:
    model = translator()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    losses = trained(model, "source", 40)
    assert losses[-1] < losses[0] - 0.5
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith(FIRST), name


def test_the_second_phase_moves_all_but_the_fixed_bias() -> None:
    model = translator()
    first = trained(model, "source", 20)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    second = trained(model, "all", 20)
    assert second[-1] < first[-1]
    still = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    assert still == {"bart.final_bias"}


@torch.no_grad()
def test_a_translator_decodes_with_a_cache_as_without() -> None:
    model = translator()
    source, tokens = tokens_of(2, 5), tokens_of(2, 4)
    whole = model(source, tokens)
    read = model.encode(source)
    cache = model.make_cache(read, batch=2, capacity=4)
    for place in range(4):
        states = model.hidden(tokens[:, place : place + 1], read, torch.tensor([[place]]), cache)
        torch.testing.assert_close(model.logits(states)[:, 0], whole[:, place], atol=1e-5, rtol=1e-5)
        for slot in cache:
            slot.advance(1)


@pytest.mark.parametrize("part", ["source", "answer"])
def test_texts_beyond_the_learned_positions_are_refused(part: str) -> None:
    long, short = tokens_of(1, 13), tokens_of(1, 3)
    with pytest.raises(PromptError, match="position 12 is beyond the 12 positions"):
        bart()(*((long, short) if part == "source" else (short, long)))


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"architectures": ["BartForQuestionAnswering"]}, "'architectures' is ['BartForQuestionAnswering']"),
        ({"tie_word_embeddings": False}, "'tie_word_embeddings' is False; supported: True"),
        ({"normalize_before": True}, "'normalize_before' is True"),
        ({"is_decoder": True}, "'is_decoder' is True"),
        ({"activation_function": "swish"}, "swish"),
        ({"d_model": None}, "entry 'd_model' is missing"),
        ({"decoder_start_token_id": None}, "entry 'decoder_start_token_id' is missing"),
        ({"decoder_start_token_id": 99}, "decoder_start_id 99 is outside of a vocab of 53"),
        ({"encoder_attention_heads": 5}, "dim 16 is not a multiple of encoder_heads 5"),
        ({"quantization_config": {"bits": 4}}, "'quantization_config'"),
    ],
)
def test_a_config_we_cannot_honour_is_refused(entries: dict[str, Any], told: str, tmp_path: Path) -> None:
    hf.save(bart(), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | entries), encoding="utf-8")
    with pytest.raises(ModelError) as error:
        hf.load(tmp_path)
    assert told in str(error.value)
    assert str(path) in str(error.value)


def test_a_new_bart_takes_its_numbers_from_the_shape() -> None:
    shape = Shape(model_type="bart", vocab=90, context=40, dim=128, layers=3, bos_id=5, eos_id=5, pad_id=5)
    config = BartConfig.sized(shape)
    assert (config.heads, config.encoder_heads, config.hidden, config.encoder_layers) == (2, 2, 512, 3)
    assert (config.decoder_start_id, config.context) == (5, 40)
    with pytest.raises(ModelError, match="kv_heads 1 for 2 heads"):
        BartConfig.sized(
            Shape(model_type="bart", vocab=9, context=9, dim=128, layers=1, kv_heads=1, eos_id=5)
        )
    with pytest.raises(ModelError, match="tied=false"):
        BartConfig.sized(Shape(model_type="bart", vocab=9, context=9, dim=8, layers=1, tied=False, eos_id=5))


def test_the_fixed_bias_counts_in_the_loss() -> None:
    model = bart()
    assert model.final_bias is not None
    torch.nn.init.normal_(model.final_bias)
    pairs = sides(2)
    begun = shifted_right(pairs.targets, start=END, ignored=-100, pad=PAD)
    logits = model(pairs.source, begun, pairs.valid)
    whole = F.cross_entropy(logits.flatten(0, 1), pairs.targets.flatten(), reduction="sum")
    torch.testing.assert_close(learn_targets(model, pairs).loss, whole, atol=1e-4, rtol=1e-5)
    whole.backward()
    assert model.final_bias.grad is None


@torch.no_grad()
def test_new_tokens_get_a_place_in_all_that_has_one_per_token(tmp_path: Path) -> None:
    made = with_tokens(tiny.tokenizer(), ["<mask>"], special=True)
    model = bart(vocab=384)
    before = model(tokens_of(1, 4), tokens_of(1, 3))
    resize(model, made, special=True)  # pyright: ignore[reportArgumentType] - anything with embedding and head
    hf.save(model, tmp_path)
    after = hf.load(tmp_path)(tokens_of(1, 4), tokens_of(1, 3))
    assert after.shape[-1] == 385
    torch.testing.assert_close(after[..., :384], before)
