"""Stage `inspect attention`: what each head of a model attends to in a text, as pictures and as numbers.

One pass over the text with `luban.nn.recording`, for decoders, encoders and encoder-decoders alike. The folder gets
a picture per layer, and `maps.npz` with all weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from luban.device import DeviceConfig
from luban.errors import ModelError, PromptError

if TYPE_CHECKING:
    from torch import Tensor

    from luban.tokenizers.files import FileTokenizer

LABELLED = 40
"""Up to how many tokens a side of a picture is labelled with them."""


@dataclass(frozen=True, kw_only=True)
class Config(DeviceConfig):
    """Draw what each head of a model attends to in a text."""

    model: Path
    """Model folder: a decoder, an encoder or an encoder-decoder."""
    prompt: str
    """The text the model reads."""
    answer: str = ""
    """What an encoder-decoder's decoder reads; empty means the model's own greedy answer."""
    max_tokens: Annotated[int, Ge(1)] = 24
    """Longest answer of the model's own, in tokens."""
    out: Path
    """Folder for a PNG per layer and maps.npz."""


@dataclass(frozen=True)
class Map:
    """One layer's weights, and the tokens that look (`rows`) and are looked at (`columns`)."""

    weights: Tensor
    """[heads queries keys], rows sum to 1."""
    rows: list[int]
    columns: list[int]


def run(config: Config) -> dict[str, Any]:
    """Write the pictures and the numbers; returns the layers with their heads, and the tokens."""
    import torch

    from luban.device import start
    from luban.folder import stage_folder
    from luban.models import FAMILIES, hf
    from luban.tokenizers.files import load as load_tokenizer

    shape, tokenizer = hf.load_config(config.model), load_tokenizer(config.model)
    read = READERS.get(FAMILIES[shape.model_type].kind)
    if read is None:
        raise _no_attention(shape.model_type, config)
    if tokenizer.vocab_size > shape.vocab:
        what = f"the tokenizer has {tokenizer.vocab_size} ids and the model {shape.vocab}"
        raise ModelError(what, where=config.model, hint="the tokenizer that the model was trained with")
    with stage_folder(config.out, stage="inspect attention", config=config, inputs=[config.model]) as (
        work,
        metrics,
    ):
        model = hf.load(config.model, device=start(config, seed=None)).eval()
        with torch.inference_mode():
            maps = read(model, tokenizer, config)
        if not maps:
            raise _no_attention(shape.model_type, config)
        _write(work, maps, tokenizer)
        metrics["layers"] = {name: len(layer.weights) for name, layer in maps.items()}
        metrics["tokens"] = {name: len(layer.columns) for name, layer in maps.items()}
    return {"out": str(config.out), **metrics}


def show(results: dict[str, Any]) -> None:
    """Say which layers were drawn, and where."""
    for name, heads in results["layers"].items():
        print(f"{name}: {heads} heads over {results['tokens'][name]} tokens")
    print(f"pictures and maps.npz in {results['out']}")


def of_decoder(model: Any, tokenizer: FileTokenizer, config: Config) -> dict[str, Map]:
    """A decoder's maps of the prompt."""
    return _of_text(model, [*_before(tokenizer), *_encoded(tokenizer, config.prompt, "prompt")])


def of_encoder(model: Any, tokenizer: FileTokenizer, config: Config) -> dict[str, Map]:
    """An encoder's maps of the prompt between the tokens that begin and end a text."""
    first, last = ([] if token is None else [token] for token in (tokenizer.cls_id, tokenizer.sep_id))
    return _of_text(model, [*first, *_encoded(tokenizer, config.prompt, "prompt"), *last])


def of_encoder_decoder(model: Any, tokenizer: FileTokenizer, config: Config) -> dict[str, Map]:
    """The encoder's maps of the prompt, the decoder's of the answer, and those from the answer to the prompt."""
    from luban.models.bahdanau import RNNSearch
    from luban.nn.attention import CrossAttention
    from luban.nn.recording import Recording

    end = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    ids = [*_before(tokenizer), *_encoded(tokenizer, config.prompt, "prompt"), *end]
    tokens = _batch(model, ids, "prompt")
    given = _encoded(tokenizer, config.answer, "answer") if config.answer else None
    answer = [model.config.decoder_start_id, *(given or _own_answer(model, tokenizer, ids, config))]
    answered = _batch(model, answer, "answer")
    if isinstance(model, RNNSearch):  # its attention is additive, and not PyTorch's
        return {"blocks.0.alignment": Map(model.attention_weights(tokens, answered), answer, ids)}
    with Recording(model) as reading:
        source = model.encode(tokens)
    with Recording(model) as writing:
        model.hidden(answered, source)
    maps = {name: Map(weights[0], ids, ids) for name, weights in reading.maps.items()}
    for name, weights in writing.maps.items():
        across = isinstance(model.get_submodule(name), CrossAttention)
        maps[name] = Map(weights[0], answer, ids if across else answer)
    return maps


READERS: Mapping[str, Callable[[Any, FileTokenizer, Config], dict[str, Map]]] = {
    "causal": of_decoder,
    "masked": of_encoder,
    "seq2seq": of_encoder_decoder,
}
"""By the kind of the family."""


def _of_text(model: Any, ids: list[int]) -> dict[str, Map]:
    """The maps of one pass over a text that looks at itself."""
    from luban.nn.recording import Recording

    tokens = _batch(model, ids, "prompt")
    with Recording(model) as seen:
        model.hidden(tokens)
    return {name: Map(weights[0], ids, ids) for name, weights in seen.maps.items()}


def _before(tokenizer: FileTokenizer) -> list[int]:
    return [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []


def _encoded(tokenizer: FileTokenizer, text: str, setting: str) -> list[int]:
    """The ids of `text`; raises PromptError if there are none."""
    ids = tokenizer.encode(text)
    if not ids:
        raise PromptError("there is no token to look at", where=f"setting '{setting}'")
    return ids


def _batch(model: Any, ids: list[int], setting: str) -> Tensor:
    """`ids` as a batch of one; raises PromptError for more than the model reads."""
    import torch

    if len(ids) > model.config.context:
        what = f"{len(ids)} tokens, and the model reads at most {model.config.context}"
        raise PromptError(what, where=f"setting '{setting}'", hint="a shorter text")
    return torch.tensor([ids], device=model.embedding.weight.device)


def _own_answer(model: Any, tokenizer: FileTokenizer, ids: list[int], config: Config) -> list[int]:
    from luban.inference.generate import generate_tokens
    from luban.inference.reading import beginnings, read_prompts
    from luban.lm import Sampling

    sampling = Sampling(max_tokens=config.max_tokens, temperature=0.0)
    stop = frozenset(tokenizer.stop_ids)
    decoder = read_prompts(model, [ids])
    (made,) = generate_tokens(decoder, beginnings(model, 1), [sampling], tokenizer=tokenizer, stop_ids=stop)
    return made.tokens


def _no_attention(model_type: str, config: Config) -> ModelError:
    what = f"a '{model_type}' model attends to no tokens: there is nothing to draw"
    return ModelError(what, where=config.model, hint="luban models lists the families")


def _write(folder: Path, maps: Mapping[str, Map], tokenizer: FileTokenizer) -> None:
    """`maps.npz`, with the ids of rows and columns beside each layer's weights, and a picture per layer."""
    import numpy as np

    arrays = {}
    for name, layer in maps.items():
        arrays |= {name: layer.weights.float().cpu().numpy()}
        arrays |= {f"{name}.rows": np.array(layer.rows), f"{name}.columns": np.array(layer.columns)}
    np.savez_compressed(folder / "maps.npz", **arrays)
    for name, layer in maps.items():
        _draw(folder / f"{name}.png", name, layer, tokenizer)


def _draw(path: Path, name: str, layer: Map, tokenizer: FileTokenizer) -> None:
    """One layer's heads side by side: a row of a pane shows what one token attends to."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    heads, rows, columns = layer.weights.shape
    across = min(heads, 4)
    down = -(-heads // across)
    width, height = (min(7.0, 1.2 + 0.2 * count) for count in (columns, rows))
    size = (across * width, down * height + 0.4)
    figure, panes = plt.subplots(*(down, across), figsize=size, squeeze=False, constrained_layout=True)
    figure.suptitle(f"{name}: rows attend to columns")
    for pane in panes.flat[heads:]:
        pane.set_visible(False)
    for head, pane in enumerate(panes.flat[:heads]):
        pane.imshow(layer.weights[head].float().cpu().numpy(), vmin=0, vmax=1, cmap="viridis", aspect="auto")
        pane.set_title(f"head {head}")
        if columns <= LABELLED:
            pane.set_xticks(range(columns), _labels(layer.columns, tokenizer), rotation=90, parse_math=False)
        if rows <= LABELLED:
            pane.set_yticks(range(rows), _labels(layer.rows, tokenizer), parse_math=False)
        pane.tick_params(labelsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _labels(ids: list[int], tokenizer: FileTokenizer) -> list[str]:
    """Each token as its picture can show it: spaces made visible, its number where the font lacks a letter."""
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont("DejaVu Sans"))
    texts = [tokenizer.decode([token], skip_special=False) for token in ids]
    shown = [text.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥") for text in texts]
    return [
        text if text and all(font.get_char_index(ord(letter)) for letter in text) else f"#{token}"
        for token, text in zip(ids, shown, strict=True)
    ]
