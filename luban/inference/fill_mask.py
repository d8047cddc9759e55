"""Stage `fill-mask`: what a masked model puts in the place of each mask of a text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from luban.device import DeviceConfig
from luban.errors import ConfigError, ModelError, PromptError

if TYPE_CHECKING:
    from luban.models.bert import Bert
    from luban.tokenizers.files import FileTokenizer


@dataclass(frozen=True, kw_only=True)
class Config(DeviceConfig):
    """Say what may stand where a text has a mask: the likeliest tokens with their probabilities."""

    model: Path
    """Folder of a masked model (BERT)."""
    prompt: tuple[str, ...]
    """One text with masks, spelled as the tokenizer's mask token ([MASK]), or several."""
    top_k: Annotated[int, Ge(1)] = 5
    """How many tokens to tell for each mask."""


def run(config: Config) -> dict[str, Any]:
    """For each text, for each of its masks: the likeliest tokens, their ids and probabilities."""
    from luban.device import start
    from luban.models import FAMILIES, hf
    from luban.tokenizers.files import load as load_tokenizer

    shape = hf.load_config(config.model)
    if FAMILIES[shape.model_type].kind != "masked" or not shape.word_head:
        what = f"the model has no head for hidden words: it is a '{shape.model_type}'"
        raise ConfigError(what, where=config.model, hint="a model of `luban pretrain --model bert`")
    tokenizer = load_tokenizer(config.model)
    if tokenizer.vocab_size > shape.vocab:
        what = f"the tokenizer has {tokenizer.vocab_size} ids and the model {shape.vocab}"
        raise ModelError(what, where=config.model, hint="use the model's own tokenizer")
    model = hf.load(config.model, device=start(config, seed=None)).eval()
    texts = [{"prompt": text, "masks": fill(model, tokenizer, text, config.top_k)} for text in config.prompt]
    return {"model": str(config.model), "texts": texts}


def show(results: dict[str, Any]) -> None:
    """Print each text, and under it a line for each mask."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for row in results["texts"]:
        console.print(Text(row["prompt"], style="bold"), soft_wrap=True)
        for candidates in row["masks"]:
            told = "  ".join(f"{one['token']} {one['probability']:.3f}" for one in candidates)
            console.print(Text(f"  {told}"), soft_wrap=True)


def fill(model: Bert, tokenizer: FileTokenizer, text: str, top_k: int) -> list[list[dict[str, Any]]]:
    """For each mask in `text`, from left to right: its `top_k` likeliest tokens, the likeliest first.

    All masks are filled at once, each as if the others stayed hidden. Raises PromptError for a text without mask,
    or longer than the model's window.
    """
    import torch

    ids = encoded(tokenizer, text)
    with torch.inference_mode():
        states = model.hidden(torch.tensor([ids], device=model.embedding.weight.device))[0]
        places = [place for place, token in enumerate(ids) if token == tokenizer.mask_id]
        assert model.head is not None, "checked by the stage"
        chances = model.head(states[places]).float().softmax(-1)
    likeliest = chances.topk(min(top_k, tokenizer.vocab_size))
    return [
        [
            {"token": tokenizer.decode([token], skip_special=False), "id": token, "probability": probability}
            for token, probability in zip(tokens, values, strict=True)
        ]
        for tokens, values in zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
    ]


def encoded(tokenizer: FileTokenizer, text: str) -> list[int]:
    """The ids of `[CLS] text [SEP]`, in which the mask token, where it is spelled out, is the mask.

    Raises PromptError if the text has no mask, ConfigError if the tokenizer lacks one of the three tokens.
    """
    cls, sep, mask = tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id
    if cls is None or sep is None or mask is None:
        raise ConfigError(
            "the tokenizer has no cls_token, sep_token and mask_token",
            hint="luban tokenizer train --type wordpiece",
        )
    (spelled,) = [token for token, number in tokenizer.special_tokens.items() if number == mask]
    if spelled not in text:
        raise PromptError(
            f"there is no mask in {text!r}", hint=f"write {spelled} where a word is to be found"
        )
    ids = [cls]
    for number, piece in enumerate(tokenizer.encode_batch(text.split(spelled))):
        ids += [mask, *piece] if number else piece
    return [*ids, sep]
