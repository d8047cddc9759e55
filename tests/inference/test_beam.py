"""Beam search: equal to looking at every answer where that is possible, and to `transformers`' beams elsewhere."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from luban.errors import PromptError
from luban.inference.beam import Hypothesis, beam_search, generate_beams
from luban.inference.generate import generate_tokens
from luban.lm import Sampling
from luban.models import hf
from luban.models.gpt2 import GPT2, GPT2Config
from luban.models.seq2seq import Seq2Seq
from luban.models.transformer import Transformer, TransformerConfig
from tests import tiny
from tests.inference.test_generate import loud

STOP = 0


def small(seed: int = 2) -> Any:
    torch.manual_seed(seed)
    return loud(GPT2(GPT2Config(vocab=5, dim=16, layers=1, heads=2, context=16)))


def every_answer(model: Any, prompt: list[int], length: int) -> list[Hypothesis]:
    """All answers of `length` tokens, and all shorter ones that end with the stop id."""
    made = []
    for size in range(1, length + 1):
        for tokens in itertools.product(range(5), repeat=size):
            whole = size == length
            if STOP in tokens[:-1] or not (whole or tokens[-1] == STOP):
                continue
            logps = model(torch.tensor([[*prompt, *tokens]])).detach()[0].log_softmax(-1)
            own = [float(logps[len(prompt) - 1 + place, token]) for place, token in enumerate(tokens)]
            reason = "stop" if tokens[-1] == STOP else "length"
            made.append(Hypothesis(tokens, tuple(own), reason))
    return made


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, -0.5])
def test_a_beam_that_holds_everything_finds_what_looking_at_everything_finds(length_penalty: float) -> None:
    model, prompt = small(), [3, 1]
    (found,) = beam_search(
        model, [prompt], beams=80, max_tokens=4, length_penalty=length_penalty, stop_ids=frozenset([STOP])
    )
    ranked = sorted(every_answer(model, prompt, 4), key=lambda one: -one.score(length_penalty))
    assert [one.tokens for one in found[:10]] == [one.tokens for one in ranked[:10]]
    assert [one.finish_reason for one in found[:10]] == [one.finish_reason for one in ranked[:10]]
    assert [one.logp for one in found[:10]] == pytest.approx([one.logp for one in ranked[:10]], abs=1e-4)


def test_a_score_is_the_log_probability_over_a_power_of_the_length() -> None:
    answer = Hypothesis((1, 2, 3, 4), (-1.0, -2.0, -3.0, -2.0), "length")
    assert [answer.score(power) for power in (0.0, 0.5, 1.0)] == [-8.0, -4.0, -2.0]


def test_a_beam_finds_a_likelier_answer_than_greedy_decoding_where_the_first_step_misleads() -> None:
    # After 1 everything is as likely, after 2 a 3 is certain: 0.4 x 1 beats 0.6 x 0.25.
    class Misleading:
        config = GPT2Config(vocab=4, dim=4, layers=1, heads=1, context=8)
        embedding = torch.nn.Embedding(4, 4)

        def hidden(self, tokens: Tensor, *_: Any) -> Tensor:
            return tokens[..., None]

        def head(self, last: Tensor) -> Tensor:
            table = torch.tensor([[0, 0.6, 0.4, 0], [0.25] * 4, [0, 0, 0, 1.0], [0.25] * 4])
            return table[last.squeeze(-1)].log()

        def make_cache(self, **_: Any) -> list[Any]:
            return []

    greedy, best = (
        beam_search(Misleading(), [[0]], beams=beams, max_tokens=2)[0][0].tokens for beams in (1, 2)
    )
    assert (greedy[0], best) == (1, (2, 3))


def test_one_beam_is_greedy_decoding() -> None:
    model, prompts = small(), [[3, 1], [2, 4, 1, 1]]
    stop_ids = frozenset([STOP])
    found = beam_search(model, prompts, beams=1, max_tokens=6, stop_ids=stop_ids)
    greedy = generate_tokens(
        model,
        prompts,
        [Sampling(temperature=0, max_tokens=6)] * 2,
        tokenizer=tiny.tokenizer(),
        stop_ids=stop_ids,
    )
    assert [list(best[0].tokens) for best in found] == [made.tokens for made in greedy]


def test_prompts_searched_together_are_as_searched_alone() -> None:
    torch.manual_seed(4)
    model = loud(tiny.llama())
    prompts, stop_ids = [[5, 300, 17, 9, 9], [8], [44, 2]], frozenset(range(0, 384, 5))
    together = beam_search(model, prompts, beams=3, max_tokens=8, stop_ids=stop_ids)
    for prompt, found in zip(prompts, together, strict=True):
        (alone,) = beam_search(model, [prompt], beams=3, max_tokens=8, stop_ids=stop_ids)
        assert [one.tokens for one in alone] == [one.tokens for one in found]


def test_an_answer_ends_at_the_end_of_the_window() -> None:
    (found,) = beam_search(loud(tiny.gpt2()), [[7] * 60], beams=3, max_tokens=50)
    assert {(len(one.tokens), one.finish_reason) for one in found} == {(4, "length")}


REFERENCE = {"early_stopping": False, "num_beams": 3, "do_sample": False}
"""`transformers`' settings of a search like ours; `early_stopping=False` is its default."""


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_beams_of_gpt2_equal_transformers(seed: int, length_penalty: float, tmp_path: Any) -> None:
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=23, n_embd=16, n_layer=2, n_head=2, n_positions=32, initializer_range=0.5
    )
    theirs: Any = transformers.GPT2LMHeadModel(config).eval()
    theirs.save_pretrained(tmp_path)
    prompts = torch.randint(1, 23, (2, 4))
    expected = theirs.generate(
        prompts,
        **REFERENCE,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=8,
        eos_token_id=[0, 7],
        pad_token_id=0,
        length_penalty=length_penalty,
        num_return_sequences=3,
        return_dict_in_generate=True,
        output_scores=True,
    )
    found = beam_search(
        hf.load(tmp_path),
        prompts.tolist(),
        beams=3,
        max_tokens=8,
        length_penalty=length_penalty,
        stop_ids=frozenset([0, 7]),
    )
    ours = [one for answers in found for one in answers]
    for one, row, score in zip(ours, expected.sequences, expected.sequences_scores, strict=True):
        assert list(one.tokens) == row[4 : 4 + len(one.tokens)].tolist()
        assert one.score(length_penalty) == pytest.approx(float(score), abs=1e-4)


def tiny_transformer() -> Seq2Seq:
    torch.manual_seed(1)
    numbers: dict[str, Any] = {"vocab": 384, "dim": 32, "layers": 2, "heads": 4, "context": 24}
    return loud(Transformer(TransformerConfig(**numbers, decoder_start_id=1)))


def test_an_encoder_decoder_is_searched_through_its_source() -> None:
    model = tiny_transformer()
    sources = torch.randint(384, (2, 6), generator=torch.Generator().manual_seed(0))
    decoder = model.given(model.encode(sources).repeat(3))
    found = beam_search(decoder, [[1], [1]], beams=3, max_tokens=5)
    for source, answers in zip(sources, found, strict=True):
        for one in answers:
            logps = model(source[None], torch.tensor([[1, *one.tokens[:-1]]])).detach()[0].log_softmax(-1)
            own = [float(row[token]) for row, token in zip(logps, one.tokens, strict=True)]
            assert one.logps == pytest.approx(own, abs=1e-4)
    assert found[0][0].tokens != found[1][0].tokens


ENCODER_DECODERS: dict[str, Any] = {
    "bart": lambda: transformers.BartConfig(
        vocab_size=29,
        d_model=16,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        max_position_embeddings=32,
        init_std=0.5,
        forced_eos_token_id=None,
    ),
    "t5": lambda: transformers.T5Config(
        vocab_size=29,
        d_model=16,
        d_kv=8,
        d_ff=24,
        num_layers=2,
        num_heads=2,
        initializer_factor=3.0,
        **dict[str, Any](decoder_start_token_id=0),
    ),
}


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_beams_of_encoder_decoders_equal_transformers(
    name: str, length_penalty: float, tmp_path: Any
) -> None:
    torch.manual_seed(3)
    config = ENCODER_DECODERS[name]()
    theirs: Any = transformers.AutoModelForSeq2SeqLM.from_config(config).eval()
    theirs.save_pretrained(tmp_path)
    sources = torch.randint(3, 29, (3, 6))
    valid = torch.arange(6) < torch.tensor([[6], [4], [5]])
    expected = theirs.generate(
        sources,
        **REFERENCE,
        attention_mask=valid.long(),
        max_new_tokens=8,
        eos_token_id=[2, 9],
        length_penalty=length_penalty,
        num_return_sequences=3,
        return_dict_in_generate=True,
        output_scores=True,
    )
    model = hf.load(tmp_path)
    found = beam_search(
        model.given(model.encode(sources, valid).repeat(3)),
        [[model.config.decoder_start_id]] * 3,
        beams=3,
        max_tokens=8,
        length_penalty=length_penalty,
        stop_ids=frozenset([2, 9]),
    )
    ours = [one for answers in found for one in answers]
    for one, row, score in zip(ours, expected.sequences, expected.sequences_scores, strict=True):
        assert list(one.tokens) == row[1 : 1 + len(one.tokens)].tolist()
        assert one.score(length_penalty) == pytest.approx(float(score), abs=1e-4)


def test_a_setting_for_drawing_is_refused_beside_beams() -> None:
    with pytest.raises(PromptError, match=r"beams 2: top_k is 5.*\n  try: leave out top_k"):
        generate_beams(
            small(), [[1]], Sampling(beams=2, top_k=5), tokenizer=tiny.tokenizer(), stop_ids=frozenset()
        )


def test_the_best_answer_comes_as_text_without_its_stop_id() -> None:
    torch.manual_seed(4)
    model, tokenizer = loud(tiny.llama()), tiny.tokenizer()
    stop_ids = frozenset(range(0, 384, 3))
    sampling = Sampling(beams=3, max_tokens=8, logprobs=True)
    (made,) = generate_beams(model, [[5, 6]], sampling, tokenizer=tokenizer, stop_ids=stop_ids)
    (best, *_) = beam_search(model, [[5, 6]], beams=3, max_tokens=8, stop_ids=stop_ids)[0]
    assert (made.tokens, made.logps) == (list(best.tokens), list(best.logps))
    assert made.finish_reason == "stop"
    assert made.text == tokenizer.decode(best.tokens[:-1])
