"""Prompt tuning, P-tuning and prefix tuning: what is read before every text, in all ways of reading; `peft`'s files."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from luban.errors import ConfigError, ModelError, PromptError
from luban.inference.generate import generate_tokens
from luban.inference.sampling import Sampling
from luban.models import hf
from luban.peft import METHODS, files
from luban.peft.adapter import switched_off
from luban.peft.prepended import Widened
from luban.training.recompute import recompute_blocks
from tests import tiny
from tests.peft import learning
from tests.peft.learning import disturb, gradients, names_of, packed, tokens

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "prompt": ("prompt_tuning", {}),
    "mlp": ("p_tuning", {"encoder_hidden_size": 24}),
    "lstm": ("p_tuning", {"encoder_hidden_size": 24, "encoder_reparameterization_type": "LSTM"}),
    "prefix": ("prefix_tuning", {}),
    "projected": ("prefix_tuning", {"prefix_projection": True, "encoder_hidden_size": 24}),
}
every = pytest.mark.parametrize("case", CASES)
LENGTH = 3


def begun(model: Any, case: str, **changes: Any) -> Any:
    """The method of `case` on `model`, with weights that all mean something."""
    method, numbers = CASES[case]
    torch.manual_seed(3)
    config = METHODS[method].config(num_virtual_tokens=LENGTH, **(numbers | changes))
    adapter = METHODS[method].apply(model, config)
    disturb(adapter)
    return adapter


def model_and_adapter(case: str, make: Callable[..., Any] = tiny.llama, **changes: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = make(**changes).eval()
    return model, begun(model, case)


def test_a_soft_prompt_of_words_is_the_same_as_these_words_before_the_text() -> None:
    torch.manual_seed(0)
    model = tiny.llama()
    before = torch.tensor([[7, 8, 7]]).expand(2, 3)
    expected = model(torch.cat([before, tokens()], 1))[:, 3:]
    for numbers in ({"init_ids": (7, 8)}, {"init_ids": (7, 8, 7, 9)}):
        config = METHODS["prompt_tuning"].config(num_virtual_tokens=3, **numbers)
        adapter = METHODS["prompt_tuning"].apply(model, config)
        torch.testing.assert_close(model(tokens()), expected, atol=1e-5, rtol=1e-5)
        adapter.remove()


def test_a_prefix_begins_as_what_the_model_keeps_of_words() -> None:
    torch.manual_seed(0)
    model = tiny.llama()
    torch.manual_seed(5)
    drawn = torch.randint(384, (LENGTH,)).expand(2, LENGTH)
    expected = model(torch.cat([drawn, tokens()], 1))[:, LENGTH:]
    torch.manual_seed(5)
    METHODS["prefix_tuning"].apply(model, METHODS["prefix_tuning"].config(num_virtual_tokens=LENGTH))
    torch.testing.assert_close(model(tokens()), expected, atol=1e-5, rtol=1e-5)


@every
def test_it_changes_what_comes_out_and_leaves_no_trace_when_off_or_removed(case: str) -> None:
    torch.manual_seed(0)
    plain = tiny.llama().eval()
    expected, names = plain(tokens()), list(plain.state_dict())
    model, adapter = model_and_adapter(case)
    assert not torch.allclose(model(tokens()), expected, atol=1e-3)
    with switched_off(model):
        assert torch.equal(model(tokens()), expected)
        batch = packed()
        states = model.hidden(batch.tokens, batch.positions, model.isolate(batch.documents))
        assert states.shape == (2, 12, 32)
    adapter.remove()
    assert torch.equal(model(tokens()), expected)
    assert list(model.state_dict()) == names
    assert not set(vars(model)) & {"hidden", "isolate", "make_cache"}


MAKERS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "llama": (tiny.llama, {}),
    "window": (tiny.llama, {"model_type": "mistral", "window": 5}),
    "gpt2": (tiny.gpt2, {}),
    "bloom": (tiny.bloom, {}),
}


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("case", ["prompt", "prefix"])
def test_packed_documents_are_read_as_if_alone(case: str, maker: str) -> None:
    make, changes = MAKERS[maker]
    model, _ = model_and_adapter(case, make, **changes)
    batch = packed()
    together = model.hidden(batch.tokens, batch.positions, model.isolate(batch.documents))
    for row, numbers in enumerate(batch.documents):
        for number in numbers.unique():
            own = numbers == number
            alone = model.hidden(batch.tokens[row, own][None])
            torch.testing.assert_close(together[row, own][None], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("case", ["prompt", "prefix"])
def test_a_cached_forward_equals_an_uncached_one(case: str, maker: str) -> None:
    make, changes = MAKERS[maker]
    model, _ = model_and_adapter(case, make, **changes)
    expected, read = model(tokens()), tokens()
    cache = model.make_cache(batch=2, capacity=9)
    for start, end in ((0, 4), (4, 5), (5, 9)):
        places = torch.arange(start, end)[None]
        with torch.inference_mode():
            logits = model(read[:, start:end], places, cache)
        for slot in cache:
            slot.advance(end - start)
        torch.testing.assert_close(logits, expected[:, start:end], atol=1e-5, rtol=1e-4)


@every
def test_answers_of_prompts_padded_to_one_batch_are_those_of_each_alone(case: str) -> None:
    model, _ = model_and_adapter(case)
    prompts = [[5, 6, 7, 8, 9], [11, 12]]
    sampling = Sampling(max_tokens=6, temperature=0.0)
    known: dict[str, Any] = {"tokenizer": tiny.tokenizer(), "stop_ids": frozenset[int]()}
    both = generate_tokens(model, prompts, [sampling] * 2, **known)
    for prompt, answer in zip(prompts, both, strict=True):
        read = list(prompt)
        for _ in range(6):
            read.append(int(model(torch.tensor([read]))[0, -1].argmax()))
        assert answer.tokens == read[len(prompt) :]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4), min_size=1, max_size=3), st.integers(1, 3)
)
def test_narrowed_is_what_was_widened(lengths: list[list[int]], length: int) -> None:
    seq = max(map(sum, lengths))
    rows = [[n for n, size in enumerate([*row, seq - sum(row)]) for _ in range(size)] for row in lengths]
    documents = torch.tensor(rows)
    x = torch.randn(len(rows), seq, 2)
    prompt = torch.arange(1.0, length + 1)[None, :, None].expand(1, length, 2) * 100
    widened = Widened(length, documents)
    wide = widened.widen(prompt, x)
    assert torch.equal(widened.narrow(wide), x)
    for row, numbers in enumerate(rows):
        for number in set(numbers):
            own = wide[row, widened.documents[row] == number + 1]
            assert torch.equal(own[:length], prompt[0])
            assert torch.equal(own[length:], x[row, documents[row] == number])


def formula(case: str) -> int:
    dim, kv, layers, n, h = 32, 16, 2, LENGTH, 24
    lstm = 2 * 4 * (h * dim + h * h + 2 * h) + 2 * 4 * (h * 2 * h + h * h + 2 * h)
    return {
        "prompt": n * dim,
        "mlp": n * dim + (dim * h + h) + (h * h + h) + (h * dim + dim),
        "lstm": n * dim + lstm + (4 * h * h + 2 * h) + (2 * h * dim + dim),
        "prefix": n * 2 * layers * kv,
        "projected": n * kv + (kv * h + h) + (h * 2 * layers * kv + 2 * layers * kv),
    }[case]


@every
def test_trained_weights_are_as_many_as_the_formula_says(case: str) -> None:
    _, adapter = model_and_adapter(case)
    assert learning.count(adapter) == formula(case)


@every
def test_training_moves_the_prompt_only_and_lowers_the_loss(case: str) -> None:
    torch.manual_seed(0)
    model = tiny.llama()
    with torch.no_grad():  # a new model's blocks say so little that nothing before a text could matter
        for weight in model.blocks.parameters():
            weight.mul_(4.0 if weight.ndim == 2 else 1.0)
    adapter = begun(model, case)
    before = learning.copied(model)
    losses = learning.train(adapter, steps=16, rate=0.1)
    assert losses[-1] < losses[0] - 0.03
    assert learning.unchanged(model, before)


@every
def test_blocks_that_are_computed_twice_give_the_same_gradients(case: str) -> None:
    _, adapter = model_and_adapter(case)
    expected = gradients(adapter)
    model, again = model_and_adapter(case)
    recompute_blocks(model)
    for name, gradient in gradients(again).items():
        assert gradient.norm() > 0
        torch.testing.assert_close(gradient, expected[name], atol=1e-7, rtol=1e-5)


@every
def test_on_a_base_in_bfloat16_the_prompt_still_learns_in_float32(case: str) -> None:
    torch.manual_seed(0)
    model = tiny.llama().bfloat16()
    adapter = begun(model, case)
    assert model(tokens()).dtype == torch.bfloat16
    for gradient in gradients(adapter).values():
        assert gradient.dtype == torch.float32
    cache = model.make_cache(batch=2, capacity=9)
    torch.testing.assert_close(model(tokens(), None, cache), model(tokens()), atol=0.05, rtol=0.05)


@every
def test_a_copied_model_has_a_prompt_of_its_own(case: str) -> None:
    model, _ = model_and_adapter(case)
    expected = model(tokens())
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, weight in other.named_parameters():
            weight.mul_(2 if "attached" in name else 1)
    assert torch.equal(model(tokens()), expected)
    assert not torch.allclose(other(tokens()), expected, atol=1e-4)


@pytest.mark.parametrize("maker", ["llama", "gpt2"])
@pytest.mark.slow
@every
def test_peft_computes_what_we_do_from_our_prompt_and_we_from_its(
    tmp_path: Path, case: str, maker: str
) -> None:
    from peft import PeftModel

    torch.manual_seed(0)
    model = MAKERS[maker][0]().eval()
    hf.save(model, tmp_path / "base")
    names = names_of(model)
    adapter = begun(model, case)
    expected = model(tokens())
    files.save(adapter, tmp_path / "ours", names=names)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    oracle = PeftModel.from_pretrained(base, str(tmp_path / "ours"))
    torch.testing.assert_close(oracle(tokens()).logits[:, -9:], expected, atol=1e-5, rtol=1e-5)
    oracle.save_pretrained(str(tmp_path / "theirs"))
    for folder in ("ours", "theirs"):
        again = hf.load(tmp_path / "base")
        files.load(again, tmp_path / folder, names=names)
        torch.testing.assert_close(again(tokens()), expected, atol=1e-5, rtol=1e-5)


@every
def test_without_what_made_it_the_prompt_is_the_same(case: str) -> None:
    model, adapter = model_and_adapter(case)
    expected = model(tokens())
    adapter.fit({})
    torch.testing.assert_close(model(tokens()), expected)
    assert len(adapter.trained()) == 1


def test_a_prompt_of_another_length_than_told_is_refused(tmp_path: Path) -> None:
    model, adapter = model_and_adapter("prompt")
    files.save(adapter, tmp_path, names=names_of(model))
    path = tmp_path / files.CONFIG
    told = path.read_text("utf-8").replace('"num_virtual_tokens": 3', '"num_virtual_tokens": 4')
    path.write_text(told, encoding="utf-8")
    adapter.remove()
    with pytest.raises(ModelError, match=r"'prompt_embeddings' .* has shape \[3, 32\], expected \[4, 32\]"):
        files.load(model, tmp_path, names=names_of(model))


def test_mamba_reads_a_soft_prompt_but_has_no_keys_for_a_prefix() -> None:
    torch.manual_seed(0)
    model = tiny.mamba().eval()
    with pytest.raises(ConfigError, match=r"not every block of 'mamba' attends(.|\n)*prompt_tuning"):
        begun(model, "prefix")
    begun(model, "prompt")
    expected, batch = model(tokens()), packed()
    cache = model.make_cache(batch=2, capacity=9)
    torch.testing.assert_close(model(tokens(), None, cache), expected, atol=1e-5, rtol=1e-4)
    together = model.hidden(batch.tokens, batch.positions, model.isolate(batch.documents))
    alone = model.hidden(batch.tokens[:1, 5:9])
    torch.testing.assert_close(together[:1, 5:9], alone, atol=1e-5, rtol=1e-4)


@every
def test_models_and_uses_that_a_prompt_is_not_for_are_refused(case: str) -> None:
    with pytest.raises(ConfigError, match="a Bert does not"):
        begun(tiny.bert(), case)
    torch.manual_seed(0)
    model = tiny.llama()
    slots = model.make_cache(batch=2, capacity=9)
    adapter = begun(model, case)
    with pytest.raises(ConfigError, match="these slots were made without the prompt"):
        model(tokens(), None, slots)
    with pytest.raises(ConfigError, match="begins with a prompt already"):
        begun(model, case)
    with pytest.raises(ConfigError, match="cannot be merged"):
        adapter.merge()


@every
def test_a_prompt_takes_its_length_of_the_models_window(case: str) -> None:
    model, adapter = model_and_adapter(case, tiny.gpt2)
    assert adapter.places == LENGTH
    longest = model.config.context - adapter.places
    assert model(tokens(1, longest)).shape == (1, longest, 384)
    with pytest.raises(PromptError, match="position 64 is beyond the 64 positions"):
        model(tokens(1, longest + 1))


def test_a_word_beyond_the_vocabulary_is_refused() -> None:
    with pytest.raises(ConfigError, match="384 is no token id; the model has 0 to 383"):
        begun(tiny.llama(), "prompt", init_ids=(1, 384))
