"""`luban STAGE [VERB] ...`: one table from a stage's name to the module that holds its `Config` and `run`.

A stage module has `Config` (a dataclass), `run(config)` returning a dict of results, and may have
`show(results)` to print them for people. With `--json` the dict itself goes to stdout; progress and logs
always go to stderr. Exit codes: 0 done, 2 the user's mistake, 1 ours, 130 interrupted.
"""

from __future__ import annotations

import errno
import functools
import gc
import importlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from luban import __version__


@dataclass(frozen=True)
class Stage:
    """Where a stage lives. `takes_lm`: its `run` is also given the function that opens a language model.

    `shared`: several processes, which torchrun starts, may run it together.
    """

    module: str
    summary: str
    takes_lm: bool = False
    shared: bool = False


STAGES = {
    "fetch": Stage("luban.fetch", "bring text or a model here: a known name, hf:org/name, or a local path"),
    "data prepare": Stage(
        "luban.data.prepare", "raw files through a recipe to clean documents, all drops on record"
    ),
    "data ngram": Stage("luban.data.ngram", "an n-gram language model of good text, or from an ARPA file"),
    "data classifier": Stage(
        "luban.data.classifier", "learn to tell good text from raw, for the quality step"
    ),
    "data mix": Stage("luban.data.mixture", "several corpora as one, each with its share, shuffled"),
    "data contamination": Stage(
        "luban.data.contamination", "which evaluation rows stand in a corpus; scores on clean and dirty rows"
    ),
    "data shards": Stage("luban.data.shards", "documents to memory-mapped token shards"),
    "data ablate": Stage(
        "luban.ablate", "what data does: small models on variants of a corpus, compared", takes_lm=True
    ),
    "data check": Stage(
        "luban.data.check", "show conversation rows as the model will see them: rendered and masked"
    ),
    "data balance": Stage(
        "luban.data.balance", "rows resampled to the proportions in which people really ask"
    ),
    "data expand": Stage(
        "luban.data.expand", "a labelled data set to instructions, each row asked in several ways"
    ),
    "tokenizer train": Stage("luban.data.vocabulary", "learn a vocabulary from documents"),
    "tokenizer compare": Stage("luban.data.tokenizer_compare", "several tokenizers on the same documents"),
    "tokenizer explain": Stage("luban.tokenizers.explain", "learn and cut a few words, step by step"),
    "tokenizer extend": Stage(
        "luban.tuning.vocabulary", "new tokens for a tokenizer, and rows for them in its model"
    ),
    "plan": Stage(
        "luban.tuning.plan", "parameters, FLOPs, memory, time, energy of a run, here or on a cluster"
    ),
    "profile": Stage("luban.training.profile", "where a training step's time and memory go"),
    "pretrain": Stage("luban.training.pretrain", "token shards to a base model", takes_lm=True, shared=True),
    "scaling": Stage(
        "luban.training.scaling", "how loss falls with size, data and compute on your text", takes_lm=True
    ),
    "scaling show": Stage(
        "luban.training.scaling.revisit", "a grid's tables again, and what to train for a budget"
    ),
    "dist check": Stage(
        "luban.training.parallel.check",
        "collectives between processes: right, and how fast by size",
        shared=True,
    ),
    "dist server": Stage(
        "luban.training.parallel.by_server", "pretraining by a parameter server, synchronous or stale"
    ),
    "sft": Stage("luban.tuning.sft", "base model and conversation rows to an assistant", shared=True),
    "extend": Stage(
        "luban.tuning.extend",
        "a longer window for a trained model, and its perplexity by length",
        takes_lm=True,
        shared=True,
    ),
    "continual": Stage(
        "luban.tuning.continual", "one task after another: what adapters keep and a whole model forgets"
    ),
    "classify": Stage(
        "luban.tuning.classify", "labelled texts to a classifier, beside a TF-IDF baseline", shared=True
    ),
    "classify apply": Stage("luban.tuning.classify_apply", "what a trained classifier says of new texts"),
    "prompt": Stage(
        "luban.tuning.prompt",
        "a model as it is as a classifier: template, answer words, examples",
        takes_lm=True,
    ),
    "data pairs": Stage(
        "luban.alignment.checked_pairs",
        "preferences that a program can vouch for, from a model's answers or people's",
        takes_lm=True,
    ),
    "prefer": Stage(
        "luban.serving.prefer", "a local page where people say which of two answers is better", takes_lm=True
    ),
    "reward": Stage(
        "luban.alignment.reward", "preferences to a model that scores answers, or their steps", shared=True
    ),
    "dpo": Stage("luban.alignment.dpo", "preferences to a policy, without a reward model", shared=True),
    "ppo": Stage(
        "luban.alignment.ppo", "a policy that learns, with a critic, what its answers are worth", shared=True
    ),
    "grpo": Stage(
        "luban.alignment.grpo",
        "a policy that learns by comparing its own answers, without a critic",
        shared=True,
    ),
    "translate": Stage(
        "luban.tuning.translate", "pairs of texts to a model that translates, and its BLEU", takes_lm=True
    ),
    "eval": Stage(
        "luban.evaluation.run", "what a model knows: bits per byte, questions answered", takes_lm=True
    ),
    "eval lengths": Stage(
        "luban.evaluation.lengths", "perplexity against the length of what models read", takes_lm=True
    ),
    "eval passkey": Stage(
        "luban.evaluation.passkey", "whether models find a number in a long text, by depth", takes_lm=True
    ),
    "generate": Stage("luban.inference.complete", "continue a prompt", takes_lm=True),
    "fill-mask": Stage("luban.inference.fill_mask", "what a masked model (BERT) puts in the place of [MASK]"),
    "inspect attention": Stage(
        "luban.inference.inspect", "what each head of a model attends to in a text, as pictures"
    ),
    "chat": Stage("luban.inference.chat", "talk to a model in the terminal", takes_lm=True),
    "serve": Stage("luban.serving.serve", "a model over HTTP, as OpenAI's clients expect it", takes_lm=True),
    "group-heads": Stage(
        "luban.tuning.group_heads", "fewer key and value heads for a trained model: a smaller cache"
    ),
    "merge": Stage("luban.tuning.merge", "adapters put into their base, or several models made one"),
    "export": Stage(
        "luban.inference.export",
        "a model in 8 or 4 bits, or as a GGUF file for llama.cpp, read back and compared",
    ),
    "import": Stage("luban.gguf.stage", "a GGUF file to a model folder"),
    "models": Stage("luban.catalogue", "model families and published sizes, or what one model is"),
    "doctor": Stage("luban.doctor", "what works on this machine and why not; its measured speed"),
    "quickstart": Stage("luban.quickstart", "all of the above on real text, in minutes"),
}
LM_OPENER = ("luban.inference.local", "open_lm")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one stage; returns the exit code. Every user mistake ends in one message on stderr."""
    _start_quickly()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if words[0] in ("-V", "--version"):
        print(f"luban {__version__}")
        return 0
    from luban.errors import LubanError

    try:
        return _run_stage(words)
    except LubanError as error:
        return _complain(str(error), 2)
    except KeyboardInterrupt:
        if _follows():
            return 130
        return _complain("interrupted; what was finished is kept, the same command goes on", 130)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _complain(
                f"{error.filename or 'output'}: the disk is full\n  try: free space, then run it again", 2
            )
        if (
            error.errno in (errno.EACCES, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.ENOENT)
            and error.filename
        ):
            return _complain(f"{error.filename}: {error.strerror}", 2)
        raise


def overview() -> str:
    """The page of `luban --help`: every stage on a line."""
    width = max(map(len, STAGES))
    lines = ["luban: raw text to a language model that is aligned, evaluated and served.", ""]
    lines += ["usage: luban STAGE [--config FILE.yaml] [key=value | --key value]...", "", "stages:"]
    lines += [f"  {name:<{width}}  {stage.summary}" for name, stage in STAGES.items()]
    lines += ["", "`luban STAGE --help` lists a stage's settings; `luban quickstart` runs the whole way."]
    return "\n".join(lines)


def _run_stage(words: list[str]) -> int:
    from luban import config as settings
    from luban.errors import LubanError
    from luban.folder import RUN_FILE, AlreadyDone, read_json

    name, rest = _stage_named(words)
    stage = STAGES[name]
    module = importlib.import_module(stage.module)
    if "-h" in rest or "--help" in rest:
        print(settings.help_text(module.Config, stage=name))
        return 0
    as_json = "--json" in rest
    try:
        _check_processes(name)
        config = settings.load(
            module.Config, [word for word in rest if word != "--json"], where=f"luban {name}"
        )
    except LubanError:
        if _follows():
            return 2  # the first one tells the same
        raise
    try:
        results = module.run(config, _lm_opener(config)) if stage.takes_lm else module.run(config)
    except AlreadyDone as done:
        if not _follows():
            print(str(done), file=sys.stderr)
        results = read_json(done.out / RUN_FILE)["metrics"]
    if not _follows():
        _report(module, results or {}, as_json)
    return 0


def _stage_named(words: list[str]) -> tuple[str, list[str]]:
    """The longest stage name at the start of `words`, and what follows it."""
    from luban.errors import ConfigError, nearest

    for length in (2, 1):
        if " ".join(words[:length]) in STAGES:
            return " ".join(words[:length]), words[length:]
    verbs = [name.split()[1] for name in STAGES if name.startswith(f"{words[0]} ")]
    if verbs and words[1:2] in ([], ["-h"], ["--help"]):
        hint = f"luban {words[0]} {verbs[0]} --help"
        raise ConfigError(f"'{words[0]}' needs one of: {', '.join(verbs)}", where="luban", hint=hint)
    if verbs:
        raise ConfigError(f"unknown verb '{words[1]}'; {nearest(words[1], verbs)}", where=f"luban {words[0]}")
    raise ConfigError(f"unknown stage '{words[0]}'; {nearest(words[0], STAGES)}", where="luban")


def _lm_opener(config: Any) -> Any:
    """The function that opens a language model, on the device that the stage's settings name, if any."""
    from luban.device import DeviceConfig

    module, name = LM_OPENER
    opener = getattr(importlib.import_module(module), name)
    return functools.partial(opener, device=config) if isinstance(config, DeviceConfig) else opener


def _start_quickly() -> None:
    """Settings of this process that only pay in programs of another kind."""
    # Records are many small objects without cycles: collecting at each 700 takes a tenth of a data stage's time.
    gc.set_threshold(50_000, 20, 50)
    # numpy's BLAS starts threads that spin at import and that no stage uses (torch has its own).
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _check_processes(name: str) -> None:
    """Raise ConfigError where torchrun started several processes of a stage that each would run alone."""
    from luban.errors import ConfigError

    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1 and not STAGES[name].shared:
        what = f"this stage runs in one process, and there are {processes}"
        raise ConfigError(what, where=f"luban {name}", hint="start it without torchrun")


def _follows() -> bool:
    """Whether this is one of torchrun's processes and not the first, which speaks for all."""
    return os.environ.get("RANK", "0") != "0"


def _report(module: ModuleType, results: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(results, ensure_ascii=False))
    elif hasattr(module, "show"):
        module.show(results)
    else:
        for key, value in results.items():
            print(f"{key}: {value}")


def _complain(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code
