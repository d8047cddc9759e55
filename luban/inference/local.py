"""A language model out of a Hugging Face folder: `open_lm` is what the command line gives its stages.

`LocalLM` keeps the promises of `lm.py` with the plain loop of `generate.py`; scoring lives in `score.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from luban.device import DeviceConfig, start
from luban.errors import ModelError, PromptError
from luban.folder import read_json
from luban.inference.beam import generate_beams
from luban.inference.constrain import Constraint
from luban.inference.embed import Pooling, embed_tokens
from luban.inference.generate import generate_tokens, stream_tokens
from luban.inference.reading import beginnings, read_prompts
from luban.inference.score import score_tokens, split_pair
from luban.lm import Conversation, Generation, Sampling, Score
from luban.models import FAMILIES, Kind
from luban.models.headed import Headed
from luban.models.seq2seq import Seq2Seq
from luban.nn.attention import Attention
from luban.nn.mlp import GatedMLP
from luban.peft.opening import base_of, is_adapter, open_model, places_taken
from luban.tokenizers import files
from luban.tokenizers.files import FileTokenizer

BATCH_TOKENS = 8192
"""How many cached positions, padding and answers included, one batch of prompts may take."""
WRITERS: tuple[Kind, ...] = ("causal", "seq2seq", "counted")
"""Kinds of models that write text."""
SCORERS: tuple[Kind, ...] = ("causal", "counted")
"""Kinds of models that say how likely a text is."""
SUGGESTIONS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def open_lm(folder: str, device: DeviceConfig | None = None) -> LocalLM:
    """The language model in an HF folder, or in an adapter's folder with its base, ready on the device.

    Raises ModelError that says what is missing if `folder` is neither.
    """
    path = Path(folder)
    check_folder(path)
    where = start(device or DeviceConfig(), seed=None)
    model = open_model(path, device=where).eval()
    if isinstance(model, Headed):
        what = "this model has a head for a task in the place of the one for words"
        raise ModelError(what, where=folder, hint=f"luban classify apply --model {folder} --text TEXT")
    for module in model.modules() if not is_adapter(path) else ():  # an adapter works in each layer alone
        if isinstance(module, Attention | GatedMLP):
            module.join()
    settings_file = (base_of(path) if is_adapter(path) else path) / "generation_config.json"
    settings = read_json(settings_file) if settings_file.is_file() else {}
    lm = LocalLM(model, files.load(path), name=path.resolve().name, settings=settings)
    lm.context -= places_taken(model)
    return lm


def check_folder(folder: Path) -> None:
    """Raise ModelError naming what `folder` lacks to be a model folder with a tokenizer."""
    if not folder.is_dir():
        raise ModelError("no such model folder", where=folder, hint="luban fetch NAME brings one here")
    needed = ("tokenizer.json",) if is_adapter(folder) else ("config.json", "tokenizer.json")
    missing = [name for name in needed if not (folder / name).is_file()]
    if not any(folder.glob("*.safetensors")):
        missing.append("model.safetensors")
    if missing:
        hint = "give a folder in Hugging Face layout"
        raise ModelError(f"not a model folder: {', '.join(missing)} missing", where=folder, hint=hint)


class LocalLM:
    """A model and its tokenizer on this machine; see `lm.LM` for what each method promises.

    An encoder-decoder reads a prompt and answers it; any other model continues it (`continues`). What a model of
    its kind cannot do raises PromptError.
    """

    def __init__(
        self, model: Any, tokenizer: FileTokenizer, *, name: str, settings: dict[str, Any] | None = None
    ) -> None:
        """`settings` is what `generation_config.json` says; the sampling values in it are only `suggested`."""
        settings = settings or {}
        self.model, self.tokenizer, self.name = model, tokenizer, name
        self.context: int = model.config.context
        self.stop_ids = frozenset(tokenizer.stop_ids)
        self.continues = not isinstance(model, Seq2Seq)
        self._before_text = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
        # An encoder-decoder's source ends like a text; a text to be continued does not.
        self._after_text = [] if self.continues or tokenizer.eos_id is None else [tokenizer.eos_id]
        self.suggested = {key: settings[key] for key in SUGGESTIONS if settings.get(key) is not None}

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, *, constraint: Constraint | None = None
    ) -> list[Generation]:
        """Continue, or answer, each prompt, in the form of `constraint`."""
        encoded = self.tokenizer.encode_batch(list(prompts))
        whole = [[*self._before_text, *ids, *self._after_text] for ids in encoded]
        return self._generate_ids(whole, sampling, constraint)

    def chat(
        self,
        conversations: Sequence[Conversation],
        sampling: Sampling,
        *,
        constraint: Constraint | None = None,
    ) -> list[Generation]:
        """The assistant's next turn in each conversation; raises PromptError if there is no chat template."""
        prompts = [self.render(conversation) for conversation in conversations]
        return self._generate_ids(prompts, sampling, constraint)

    def stream(self, conversation: Conversation, sampling: Sampling) -> Iterator[str]:
        """Pieces of one chat answer as they come, never with a broken character."""
        prompt = self.render(conversation)
        self._require(WRITERS, "write text")
        if sampling.beams > 1 or not self.continues:
            return iter([self._generate_batch([prompt], sampling)[0].text])
        return stream_tokens(self.model, prompt, sampling, tokenizer=self.tokenizer, stop_ids=self.stop_ids)

    def count(self, conversation: Conversation) -> int:
        """How many of the window's tokens `conversation` takes, the call for an answer included."""
        return len(self.render(conversation))

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[Score]:
        """For each (context, continuation): its log-probabilities.

        With an empty context the tokenizer's begin token (or else its end token) stands before the text, so
        that every token has a probability; a longer document begins anew, like this, in each window.
        """
        self._require(SCORERS, "say how likely a text is")
        split = [split_pair(self.tokenizer, context, continuation) for context, continuation in pairs]
        whole = [([*self._before_text, *left] if left else [], right) for left, right in split]
        return score_tokens(self.model, whole, begin=self._begin())

    def embed(self, texts: Sequence[str], pooling: Pooling = "mean") -> list[list[float]]:
        """One vector for each text: the mean of the model's last states over its tokens, or the last one.

        In the model's own scale. Raises PromptError for a text that is empty or longer than the window.
        """
        self._require(("causal",), "embed a text")
        return embed_tokens(self.model, [self.prompt_ids(text) for text in texts], pooling)

    def prompt_ids(self, text: str) -> list[int]:
        """The ids that stand for `text` as a prompt, with what the model expects before and after one."""
        return [*self._before_text, *self.tokenizer.encode(text), *self._after_text]

    def render(
        self, conversation: Conversation, *, tools: Sequence[Mapping[str, Any]] | None = None
    ) -> list[int]:
        """The ids of a conversation, the call for an answer included; raises PromptError without a chat template."""
        if self.tokenizer.chat_template is None:
            hint = "luban generate continues plain text; or tune the model with luban sft"
            raise PromptError("this model has no chat template", where=self.name, hint=hint)
        return self.tokenizer.render(conversation, tools=tools, add_generation_prompt=True)[0]

    def _generate_ids(
        self, prompts: list[list[int]], sampling: Sampling, constraint: Constraint | None = None
    ) -> list[Generation]:
        """Answers in the order of `prompts`, computed in batches of similar length."""
        self._require(WRITERS, "write text")
        answers: dict[int, Generation] = {}
        by_length = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
        while by_length:
            capacity = min(len(prompts[by_length[0]]) + sampling.max_tokens, self.context)
            rows = max(1, BATCH_TOKENS // (capacity * sampling.beams))
            batch, by_length = by_length[:rows], by_length[rows:]
            finished = self._generate_batch([prompts[index] for index in batch], sampling, constraint)
            answers.update(zip(batch, finished, strict=True))
        return [answers[index] for index in range(len(prompts))]

    def _generate_batch(
        self, prompts: list[list[int]], sampling: Sampling, constraint: Constraint | None = None
    ) -> list[Generation]:
        """Answers to prompts that are computed together, by drawing or by beam search."""
        model, begun = self.model, prompts
        if isinstance(model, Seq2Seq):
            begun = beginnings(model, len(prompts))
            model = read_prompts(model, prompts, times=sampling.beams)
        known: dict[str, Any] = {"tokenizer": self.tokenizer, "stop_ids": self.stop_ids}
        if sampling.beams > 1 and constraint is not None:
            raise PromptError("beam search does not keep to a form", where=constraint.kind, hint="beams=1")
        if sampling.beams > 1:
            made = generate_beams(model, begun, sampling, **known)
        else:
            made = generate_tokens(model, begun, [sampling] * len(begun), constraint=constraint, **known)
        return [
            dataclasses.replace(answer, prompt_tokens=len(prompt))
            for answer, prompt in zip(made, prompts, strict=True)
        ]

    def _require(self, kinds: Sequence[Kind], deed: str) -> None:
        model_type = self.model.config.model_type
        kind = FAMILIES[model_type].kind
        if kind not in kinds:
            others = ", ".join(name for name, family in FAMILIES.items() if family.kind in kinds)
            what = f"a '{model_type}' model cannot {deed}: it is of the kind '{kind}'"
            hint = f"{'luban fill-mask, or ' if kind == 'masked' else ''}a model of another family: {others}"
            raise PromptError(what, where=self.name, hint=hint)

    def _begin(self) -> int:
        for token in (self.tokenizer.bos_id, self.tokenizer.eos_id):
            if token is not None:
                return token
        raise PromptError("an empty context needs a begin or end token, and the tokenizer has none")
