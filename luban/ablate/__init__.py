"""Stage `data ablate`: what data does. Small models, alike but for their training text, on the same held-out text.

    data -> tokenizer (one for all) -> shards -> a model per variant and seed -> scores -> table and picture

Every arrow is a Luban stage with a folder of its own below `out`, so a run that was stopped goes on where it was,
and one with more seeds or variants trains only these.
"""

from __future__ import annotations

import hashlib
import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Le

from luban.config import canonical_json
from luban.device import DeviceConfig
from luban.errors import ConfigError, DataError
from luban.lm import OpenLM

if TYPE_CHECKING:
    from luban.ablate.memorisation import Probe
    from luban.ablate.variants import Corpus, Variant
    from luban.data.document import Document

STAGE = "data ablate"
PROBES = "probes"
MOST_PLANTED = 0.5
"""Share of the training tokens that probes may take: beyond it there is no corpus left to speak of."""
SOURCES = 8
"""The largest sources of the held-out text have figures of their own; the others share one row."""


@dataclass(frozen=True, kw_only=True)
class Config(DeviceConfig):
    """Train small models on variants of a corpus, for the same number of tokens, and compare them.

    Tabulates bits per byte of held-out text for each corpus, for mixtures, and for the last corpus with a part that
    comes often; and what a model learns by heart: snippets planted into the last corpus, by how often they stand there.
    """

    data: tuple[str, ...]
    """The corpora as NAME:PATH, each a documents folder (its training part) or file."""
    holdout: Path
    """Held-out documents: a folder (its holdout.jsonl) or a file. Every second one is scored, the rest give probes."""
    out: Path
    """Folder for the models, results.json and ablation.svg."""
    tokenizer: Path | None = None
    """A tokenizer folder; without it one is learnt from all corpora together."""
    vocab: Annotated[int, Ge(1)] = 2048
    """How many ids that one has."""
    tokens: Annotated[int, Ge(1)] = 2_000_000
    """Training tokens of every model, in whole steps."""
    layers: Annotated[int, Ge(1)] = 2
    """Blocks of every model."""
    dim: Annotated[int, Ge(8)] = 128
    """Width of every model."""
    per_device_train_batch_size: Annotated[int, Ge(1)] = 4
    """Rows of a step: a short run learns more in many small steps (benchmarks/ablate.md)."""
    max_length: Annotated[int, Ge(2)] = 128
    """Tokens of a row."""
    learning_rate: Annotated[float, Gt(0)] = 1e-3
    """Its peak; the schedule is that of `luban pretrain`."""
    seeds: tuple[Annotated[int, Ge(0)], ...] = (0, 1)
    """A model of each variant for each of these: how far they lie apart is the noise."""
    mixtures: tuple[str, ...] = ()
    """Corpora by shares of the tokens, each a variant: a:0.5,b:0.5."""
    duplicate: tuple[Annotated[int, Ge(2)], ...] = ()
    """For each number a variant of the last corpus in which a part comes so often, and fewer documents in all."""
    duplicate_share: Annotated[float, Gt(0), Le(1)] = 0.5
    """Share of the tokens that this part takes."""
    repeats: tuple[Annotated[int, Ge(1)], ...] = (1, 2, 4, 8, 16, 32, 64)
    """How often probes are planted into the last corpus; none is the control. [] leaves memorisation out."""
    probes: Annotated[int, Ge(1)] = 16
    """Snippets for each of these numbers."""
    prefix: Annotated[int, Ge(1)] = 16
    """Tokens of a snippet that the model is given."""
    continuation: Annotated[int, Ge(1)] = 16
    """Tokens that it has to continue with."""
    max_documents: Annotated[int, Ge(1)] = 200
    """Score at most this many held-out documents, drawn evenly."""

    @property
    def steps(self) -> int:
        return max(1, self.tokens // (self.per_device_train_batch_size * self.max_length))

    @property
    def budget(self) -> int:
        """Tokens that every model is trained on."""
        return self.steps * self.per_device_train_batch_size * self.max_length


def run(config: Config, open_lm: OpenLM) -> dict[str, Any]:
    """Train what is not trained yet; returns bits per byte by variant, and the table of memorisation."""
    from luban.ablate import variants
    from luban.data.sources import document_files
    from luban.folder import describe, finish, write_json

    paths = variants.named_paths(config.data)
    for path in paths.values():
        document_files(path)  # a missing one is told before hours of training on the others
    chosen = _variants(config, list(paths))
    scored, for_probes = _held_out(config)
    tokenizer = config.tokenizer or _tokenizer(config, list(paths.values()))
    corpora = {name: _corpus(config, name, path, tokenizer, scored) for name, path in paths.items()}
    base, path = list(paths.items())[-1]
    for times in config.duplicate:
        corpora |= _parts(config, base, times, tokenizer, corpora[base], path)
    probes = _probes(config, for_probes, path, tokenizer) if config.repeats else []
    if probes:
        corpora[PROBES] = _planted(config, probes, tokenizer)
        chosen.append(_with_probes(config, base, corpora[PROBES]))
    write_json(config.out / "run.json", describe(STAGE, config, [*paths.values(), config.holdout]))
    rows: dict[str, list[dict[str, Any]]] = {variant.name: [] for variant in chosen}
    for seed, variant in itertools.product(config.seeds, chosen):
        model = _train(config, variant, seed, corpora, tokenizer)
        asked = probes if variant.name in (base, f"{base}+{PROBES}") else []
        rows[variant.name].append(_score(model, scored, asked, open_lm))
    results = _results(config, chosen, corpora, rows)
    finish(config.out, results)
    return results


def _results(
    config: Config,
    chosen: Sequence[Variant],
    corpora: Mapping[str, Corpus],
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[str, Any]:
    """All figures, also as results.json and as a picture."""
    from luban.ablate import memorisation, report
    from luban.folder import write_json

    results: dict[str, Any] = {
        "tokens": _same_budget(config, rows),
        "seeds": list(config.seeds),
        "corpora": {name: dict(corpus.facts) for name, corpus in corpora.items()},
        "variants": {v.name: report.compare(v, rows, chosen[0], corpora, config.budget) for v in chosen},
    }
    if PROBES in corpora:
        planted = chosen[-1].name
        recalled = [
            [row["probes"] for row in rows[name]] for name in (planted, planted.removesuffix(f"+{PROBES}"))
        ]
        results["memorisation"] = memorisation.tabulate(*recalled)
    write_json(config.out / "results.json", results)
    report.draw(results, config.out / "ablation.svg")
    return results


def show(results: dict[str, Any]) -> None:
    """The tables."""
    from luban.ablate.report import show as show_tables

    show_tables(results)


def _variants(config: Config, names: Sequence[str]) -> list[Variant]:
    from luban.ablate.variants import Variant, mixture, part_names, repeated

    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        raise ConfigError("give seeds that differ", where="setting 'seeds'", hint="--seeds 0 1")
    chosen = [
        *(Variant(name, {name: 1.0}) for name in names),
        *(mixture(entry, names) for entry in config.mixtures),
        *(repeated(names[-1], times, config.duplicate_share) for times in config.duplicate),
    ]
    parts = [name for times in config.duplicate for name in part_names(names[-1], times)]
    taken = [*(variant.name for variant in chosen), *parts, *([PROBES] if config.repeats else [])]
    twice = next((name for name in taken if taken.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"two variants are called '{twice}'", where=f"luban {STAGE}")
    return chosen


def _held_out(config: Config) -> tuple[list[Document], list[Document]]:
    """What is scored, and what gives probes."""
    from luban.data.sources import read_documents

    documents = [one for one in read_documents([config.holdout], holdout=True) if one.text.strip()]
    if not config.repeats:
        scored, for_probes = documents, []
    else:
        scored, for_probes = documents[::2], documents[1::2]
    if not scored:
        raise DataError("no held-out text", where=config.holdout)
    most = config.max_documents
    if len(scored) > most:
        scored = [scored[place * len(scored) // most] for place in range(most)]
    return scored, for_probes


def _tokenizer(config: Config, paths: Sequence[Path]) -> Path:
    out = config.out / "tokenizer"
    _stage("tokenizer", "train", "--data", *paths, "--vocab", config.vocab, "--out", out)
    return out


def _corpus(
    config: Config,
    name: str,
    path: Path,
    tokenizer: Path,
    held_out: Sequence[Document] = (),
    *,
    bos: bool = True,
) -> Corpus:
    from luban.ablate.variants import Corpus, counted, survey

    out = config.out / "shards" / name
    _stage(
        "data", "shards", "--data", path, "--tokenizer", tokenizer, "--out", out, "--bos", str(bos).lower()
    )
    return Corpus(out, {**survey(path, held_out), **counted(out)})


def _parts(
    config: Config, base: str, times: int, tokenizer: Path, corpus: Corpus, path: Path
) -> dict[str, Corpus]:
    """The two corpora of a repeated variant."""
    from luban.ablate.variants import part, part_names

    names = part_names(base, times)
    files = [config.out / "documents" / f"{name}.jsonl" for name in names]
    wanted = config.duplicate_share * config.budget / times / corpus.facts["tokens"] * corpus.facts["bytes"]
    if wanted > config.duplicate_share * corpus.facts["bytes"]:
        what = (
            f"'{base}' has {corpus.facts['tokens']:,} tokens: to fill {config.budget:,}, each must come more"
        )
        raise ConfigError(f"{what} than {times} times", where="setting 'duplicate'", hint="fewer --tokens")
    part(path, *files, few_bytes=wanted)
    used = list(zip(names, files, strict=True))[: 2 if config.duplicate_share < 1 else 1]
    return {name: _corpus(config, name, file, tokenizer) for name, file in used}


def _probes(config: Config, held_out: Sequence[Document], training: Path, tokenizer: Path) -> list[Probe]:
    from luban.ablate.memorisation import choose, write_probes
    from luban.tokenizers.files import load

    probes = choose(
        held_out,
        training,
        load(tokenizer),
        repeats=[0, *sorted(set(config.repeats))],
        per_count=config.probes,
        lengths=(config.prefix, config.continuation),
    )
    write_probes(probes, config.out / "documents" / "probes.jsonl")
    return probes


def _planted(config: Config, probes: Sequence[Probe], tokenizer: Path) -> Corpus:
    """The probes as a corpus, begun as a model is asked for them: with a begin token only if it gets one then too."""
    from luban.ablate.memorisation import plant
    from luban.tokenizers.files import load

    path = config.out / "documents" / "planted.jsonl"
    plant(probes, path)
    return _corpus(config, PROBES, path, tokenizer, bos=load(tokenizer).adds_bos)


def _with_probes(config: Config, base: str, planted: Corpus) -> Variant:
    from luban.ablate.variants import Variant

    share = planted.facts["tokens"] / config.budget
    if share > MOST_PLANTED:
        what = f"probes take {planted.facts['tokens']:,} of {config.budget:,} training tokens"
        hint = "more --tokens, fewer --probes, or smaller --repeats"
        raise ConfigError(what, where="setting 'repeats'", hint=hint)
    return Variant(f"{base}+{PROBES}", {base: 1 - share, PROBES: share})


def _train(
    config: Config, variant: Variant, seed: int, corpora: Mapping[str, Corpus], tokenizer: Path
) -> Path:
    # Windows, as whole documents would fill several steps with one long text and the next few with probes alone.
    out = config.out / "models" / f"{variant.name}-seed{seed}"
    _stage(
        "pretrain", "--data", *(corpora[name].shards for name in variant.parts), "--tokenizer", tokenizer,
        "--weights", *variant.parts.values(), "--out", out, "--seed", seed, "--device", config.device,
        "--threads", config.threads, f"architecture.layers={config.layers}", f"architecture.dim={config.dim}",
        f"loop.max_steps={config.steps}", f"loop.max_length={config.max_length}",
        f"loop.per_device_train_batch_size={config.per_device_train_batch_size}",
        f"optimizer.learning_rate={config.learning_rate}",
        "packing=windows", "loop.compile=false", "loop.save_total_limit=1",
    )  # fmt: skip
    return out


def _stage(*words: object) -> None:
    """Run a stage; what it says of itself goes to stderr, as our results go to stdout."""
    from luban.commands import luban

    print(luban(*words, capture=True), end="", file=sys.stderr)


def _score(
    model: Path, held_out: Sequence[Document], probes: Sequence[Probe], open_lm: OpenLM
) -> dict[str, Any]:
    """Bits per byte of each source and of all, and what is recalled; kept beside the model."""
    from luban.ablate.memorisation import recall
    from luban.evaluation.bits import model_bits
    from luban.folder import fingerprint, read_json, write_json

    path = model / "scores.json"
    asked = [[document.source, document.text] for document in held_out], [vars(probe) for probe in probes]
    key = hashlib.sha256(canonical_json([fingerprint(model / "final"), *asked]).encode()).hexdigest()
    if path.is_file() and (known := read_json(path))["sha256"] == key:
        return known
    lm = open_lm(str(model / "final"))
    bits = {name: model_bits(lm, documents) for name, documents in _by_source(held_out).items()}
    total = sum(each.bytes for each in bits.values())
    row = {
        "sha256": key,
        "tokens": read_json(model / "run.json")["metrics"]["tokens"],
        "per_byte": sum(each.per_byte * each.bytes for each in bits.values()) / total,
        "sources": {name: each.per_byte for name, each in bits.items()},
        "probes": recall(lm, probes) if probes else [],
    }
    write_json(path, row)
    return row


def _by_source(documents: Sequence[Document]) -> dict[str, list[Document]]:
    """The documents of each of the largest sources, and those of all others together."""
    sizes: dict[str, int] = {}
    for document in documents:
        sizes[document.source] = sizes.get(document.source, 0) + len(document.text)
    largest = sorted(sizes, key=lambda name: -sizes[name])[:SOURCES]
    groups: dict[str, list[Document]] = {}
    for document in documents:
        groups.setdefault(document.source if document.source in largest else "others", []).append(document)
    return groups


def _same_budget(config: Config, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> int:
    trained = {row["tokens"] for runs in rows.values() for row in runs}
    assert trained == {config.budget}, f"models were trained on {trained} tokens instead of {config.budget}"
    return config.budget
