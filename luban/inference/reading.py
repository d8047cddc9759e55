"""Encoder-decoders as generation knows them: prompts are read whole, answers grow on the decoder's first token."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from luban.errors import PromptError
from luban.models.seq2seq import Decoder, Seq2Seq


@torch.inference_mode()
def read_prompts(model: Seq2Seq, prompts: Sequence[Sequence[int]], *, times: int = 1) -> Decoder:
    """The decoder that answers `prompts`, each in `times` rows.

    Raises PromptError for a prompt that is empty or longer than the encoder reads.
    """
    context = model.config.context
    for prompt in prompts:
        if not prompt:
            raise PromptError("the prompt is empty", where="prompt")
        if len(prompt) > context:
            what = f"the prompt has {len(prompt)} tokens, and the model reads at most {context}"
            raise PromptError(what, where="prompt", hint="shorten the prompt")
    device = model.embedding.weight.device
    longest = max(len(prompt) for prompt in prompts)
    # On the right, as in training; any id will do there, as nothing looks at it.
    tokens = torch.tensor([[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts], device=device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    valid = torch.arange(longest, device=device) < lengths[:, None]
    return model.given(model.encode(tokens, None if bool(valid.all()) else valid).repeat(times))


def beginnings(model: Seq2Seq, count: int) -> list[list[int]]:
    """What `count` answers begin with."""
    return [[model.config.decoder_start_id]] * count
