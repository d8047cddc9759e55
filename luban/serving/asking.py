"""From the fields of a request to what the engine is asked: how tokens are chosen, and what form the text must have."""

from __future__ import annotations

import json
from collections.abc import Sequence

from luban.inference.constrain import Constraint
from luban.inference.engine.request import Request
from luban.lm import Sampling
from luban.serving.faults import ServingError
from luban.serving.protocol import SEED_RANGE, ObjectFormat, SchemaFormat, Writing
from luban.serving.served import Served

FORMS = ("response_format", "guided_json", "guided_regex", "guided_choice", "guided_grammar")


def check_writing(served: Served, asked: Writing, *, prompts: int) -> None:
    """Raise ServingError for fields that contradict one another or ask for more than anyone may have."""
    served.require(asked.model)
    if asked.stream_options is not None and not asked.stream:
        raise ServingError("'stream_options' needs stream", param="stream_options", code="invalid_value")
    if asked.best_of is not None and asked.best_of < asked.n:
        what = f"'best_of' is {asked.best_of}, less than the {asked.n} answers asked for"
        raise ServingError(what, param="best_of", code="invalid_value")
    if asked.stream and (asked.best_of or asked.n) > asked.n:
        what = "'best_of' with stream: the best of several answers is known at the end only"
        raise ServingError(what, param="best_of", code="invalid_value")
    answers = prompts * (asked.best_of or asked.n)
    if answers > served.limits.max_answers:
        what = f"{answers} answers to one request; this server gives {served.limits.max_answers}"
        raise ServingError(what, param="n", code="invalid_value")


def check_logprobs(served: Served, asked: Writing, count: int | None, *, param: str) -> None:
    """Raise ServingError for more of the likeliest tokens than anyone may have, or than `best_of` remembers."""
    if count and count > served.limits.max_logprobs:
        what = f"'{param}' is {count}; this server tells {served.limits.max_logprobs}"
        raise ServingError(what, param=param, code="invalid_value")
    if count and (asked.best_of or asked.n) > asked.n:
        what = f"'{param}' beyond 0 with best_of: of answers to choose from only their own tokens are kept"
        raise ServingError(what, param=param, code="unsupported_parameter")


def engine_requests(
    served: Served,
    asked: Writing,
    prompts: Sequence[Sequence[int]],
    *,
    param: str,
    name: str,
    max_tokens: int | None,
    logprobs: int | None,
    constraint: Constraint | None,
    skip_special: bool,
    echoed: bool = False,
) -> list[Request]:
    """What the engine is asked, one request for each prompt; without `max_tokens` an answer may fill the window.

    `logprobs`: how many of the likeliest tokens to tell; None tells no probability. `echoed`: the prompt's too.
    `skip_special`: leave special tokens out of the text.
    """
    requests = []
    for place, prompt in enumerate(prompts):
        served.check_prompt(prompt, param=param)
        most = served.room - len(prompt)
        sampling = sampling_of(
            asked,
            max_tokens=most if max_tokens is None else max(1, min(max_tokens, most)),
            logprobs=logprobs is not None,
            skip_special=skip_special,
            vocab=served.lm.model.config.vocab,
        )
        requests.append(
            Request(
                id=f"{name}-{place}",
                prompt=prompt,
                sampling=sampling,
                n=asked.n,
                best_of=asked.best_of or 0,
                top_logps=logprobs or 0,
                prompt_logps=logprobs if echoed else None,
                constraint=constraint,
            )
        )
    return requests


def sampling_of(
    asked: Writing, *, max_tokens: int, logprobs: bool, skip_special: bool, vocab: int
) -> Sampling:
    """The request's sampling; what it leaves open is as OpenAI documents it."""
    stops = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
    if "" in stops:
        raise ServingError("'stop': a stop string is empty", param="stop", code="invalid_value")
    return Sampling(
        max_tokens=max_tokens,
        temperature=1.0 if asked.temperature is None else asked.temperature,
        top_p=1.0 if asked.top_p is None else asked.top_p,
        top_k=max(0, asked.top_k or 0),
        min_p=asked.min_p or 0.0,
        typical_p=1.0 if asked.typical_p is None else asked.typical_p,
        repetition_penalty=1.0 if asked.repetition_penalty is None else asked.repetition_penalty,
        presence_penalty=asked.presence_penalty or 0.0,
        frequency_penalty=asked.frequency_penalty or 0.0,
        no_repeat_ngram=asked.no_repeat_ngram_size or 0,
        logit_bias=_biases(asked.logit_bias or {}, vocab=vocab),
        allowed_ids=_known_ids(asked.allowed_token_ids or [], "allowed_token_ids", vocab=vocab),
        bad_words=tuple(asked.bad_words or ()),
        stop=tuple(stops),
        stop_ids=_known_ids(asked.stop_token_ids or [], "stop_token_ids", vocab=vocab),
        min_tokens=min(asked.min_tokens or 0, max_tokens),
        seed=None if asked.seed is None else asked.seed % SEED_RANGE,
        logprobs=logprobs,
        skip_special=skip_special,
        ignore_eos=asked.ignore_eos,
    )


def constraint_of(asked: Writing) -> Constraint | None:
    """The form that the answer must have, if any. Raises ServingError for several."""
    given = [name for name in FORMS if getattr(asked, name) is not None]
    if len(given) > 1:
        what = f"'{given[0]}' and '{given[1]}' both say what form the answer has"
        raise ServingError(what, param=given[1], code="invalid_value")
    if asked.guided_json is not None:
        return Constraint.json_schema(asked.guided_json)
    if asked.guided_regex is not None:
        return Constraint(kind="regex", value=asked.guided_regex)
    if asked.guided_choice is not None:
        return Constraint.choice(asked.guided_choice)
    if asked.guided_grammar is not None:
        return Constraint(kind="grammar", value=asked.guided_grammar)
    if isinstance(asked.response_format, SchemaFormat):
        return Constraint.json_schema(json.dumps(asked.response_format.json_schema.schema_))
    return Constraint(kind="json_object") if isinstance(asked.response_format, ObjectFormat) else None


def _biases(asked: dict[str, float], *, vocab: int) -> dict[int, float]:
    """By token id. Raises ServingError for a key that is none."""
    for key in asked:
        if not (key.isascii() and key.isdecimal() and len(key) < 10 and int(key) < vocab):
            what = f"'logit_bias': '{key}' is not one of the model's {vocab} token ids"
            raise ServingError(what, param="logit_bias", code="invalid_value")
    return {int(key): value for key, value in asked.items()}


def _known_ids(asked: Sequence[int], param: str, *, vocab: int) -> tuple[int, ...]:
    for token in asked:
        if token >= vocab:
            what = f"'{param}': {token} is not one of the model's {vocab} token ids"
            raise ServingError(what, param=param, code="invalid_value")
    return tuple(asked)
