"""`luban tokenizer explain`: how a vocabulary is learnt and a word is cut, step by step, on words one can follow."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge

from luban.errors import ConfigError
from luban.tokenizers.explain import bpe, unigram, wordpiece

EXAMPLE = ("low:5", "lower:2", "newest:6", "widest:3")
"""The words of Sennrich et al. 2016, figure 1, with their counts."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Learn pieces from a few words, then cut a text with them, and show each step."""

    POSITIONAL: ClassVar[str] = "text"

    text: str = "lowest"
    """What to cut, word by word."""
    type: Literal["bpe", "wordpiece", "unigram"] = "bpe"
    """How to learn and cut."""
    words: tuple[str, ...] = EXAMPLE
    """What to learn from: words with their counts, `low:5`, or alone."""
    pieces: Annotated[int, Ge(0)] = 10
    """How many pieces longer than a character to learn."""


def run(config: Config) -> dict[str, Any]:
    """The steps of learning, and of cutting each word, as plain values."""
    words = counted(config.words)
    text = config.text.split()
    if not text:
        raise ConfigError(f"setting 'text' is {config.text!r}: there is no word in it")
    return {"type": config.type, "words": words, **EXPLAIN[config.type](words, config.pieces, text)}


def show(results: dict[str, Any]) -> None:
    """The steps as a page to read."""
    print("words     " + ", ".join(f"{word} {count}" for word, count in results["words"].items()))
    print(f"source    {SOURCES[results['type']]}\n")
    for title in ("learning", "cutting"):
        print("\n".join((title, *results[title])) + "\n")
    for word, pieces in results["pieces"].items():
        print(f"{word} = {' '.join(pieces)}")


def counted(words: Sequence[str]) -> dict[str, int]:
    """Counts of words given as `low:5` or `low`; raises ConfigError if a count is not a positive number."""
    counts: Counter[str] = Counter()
    for entry in words:
        word, colon, count = entry.rpartition(":")
        if not colon:
            word, count = entry, "1"
        if not word or not count.isdecimal() or not int(count):
            raise ConfigError(f"setting 'words' has {entry!r}", hint="word:count, for example low:5")
        counts[word] += int(count)
    return dict(counts)


def explain_bpe(words: Mapping[str, int], pieces: int, text: Sequence[str]) -> dict[str, Any]:
    """Merges by count."""
    merges = bpe.learn(words, pieces)
    learning = [
        f"{number:>3}  {' + '.join(merge.pair):<16} {merge.made:<12} {merge.count:>6} times{_tied(merge.ties)}"
        for number, merge in enumerate(merges, 1)
    ]
    known = {part for word in words for part in bpe.symbols(word)} | {merge.made for merge in merges}
    cutting: list[str] = []
    cut: dict[str, list[str]] = {}
    for word in text:
        steps = bpe.encode(word, merges)
        for merge, parts in steps:
            rule = f"{merges.index(merge) + 1}: {' + '.join(merge.pair)}" if merge else "characters"
            cutting.append(f"     {rule:<20} {' '.join(parts)}")
        cut[word] = [part if part in known else wordpiece.UNKNOWN for part in steps[-1][1]]
    return {
        "learning": learning,
        "cutting": cutting,
        "pieces": cut,
        "merges": [list(merge.pair) for merge in merges],
    }


def explain_wordpiece(words: Mapping[str, int], pieces: int, text: Sequence[str]) -> dict[str, Any]:
    """Merges by score, the longest match."""
    characters, merges = wordpiece.learn(words, pieces)
    learning = [f"     {' '.join(characters)}"]
    for number, merge in enumerate(merges, 1):
        score = f"{merge.count} / ({merge.parts[0]} * {merge.parts[1]}) = {merge.score:.4f}"
        learning.append(
            f"{number:>3}  {' + '.join(merge.pair):<18} {merge.made:<10} {score}{_tied(merge.ties)}"
        )
    vocabulary = {*characters, *(merge.made for merge in merges)}
    cutting: list[str] = []
    cut: dict[str, list[str]] = {}
    for word in text:
        cut[word], matches = wordpiece.encode(word, vocabulary)
        for match in matches:
            *missed, last = match.tried
            ending = last if match.found else f"{last} no: {wordpiece.UNKNOWN}"
            cutting.append("     " + "".join(f"{piece} no, " for piece in missed) + ending)
    return {
        "learning": learning,
        "cutting": cutting,
        "pieces": cut,
        "merges": [list(merge.pair) for merge in merges],
    }


def explain_unigram(words: Mapping[str, int], pieces: int, text: Sequence[str]) -> dict[str, Any]:
    """EM and pruning, the lattice and its best way."""
    model, rounds = unigram.learn(words, pieces)
    learning: list[str] = []
    for number, step in enumerate(rounds, 1):
        gone = ", ".join(f"{piece} {lost:.3f}" for piece, lost in step.dropped)
        fate = f"dropped, with what each is worth: {gone}" if gone else "nothing is dropped any more"
        learning.append(
            f"{number:>3}  {step.pieces} pieces, log likelihood {step.log_likelihood:.3f}; {fate}"
        )
    ordered = sorted(model.items(), key=lambda pair: -pair[1])
    learning.append("     " + ", ".join(f"{piece} {p:.4f}" for piece, p in ordered))
    cutting: list[str] = []
    cut: dict[str, list[str]] = {}
    for word in text:
        best, lattice = unigram.viterbi(word, model)
        cut[word] = best or [wordpiece.UNKNOWN]
        cutting += [_edge(word, edge) for edge in lattice]
        if best:
            own = math.prod(model[piece] for piece in best)
            share = own / unigram.forward(word, model)[-1]
            cutting.append(f"     P({' '.join(best)}) = {own:.3g}, {share:.1%} of all ways to cut {word}")
    return {
        "learning": learning,
        "cutting": cutting,
        "pieces": cut,
        "probabilities": dict(ordered),
        "rounds": [asdict(step) for step in rounds],
    }


EXPLAIN: Mapping[str, Callable[[Mapping[str, int], int, Sequence[str]], dict[str, Any]]] = {
    "bpe": explain_bpe,
    "wordpiece": explain_wordpiece,
    "unigram": explain_unigram,
}
SOURCES = {
    "bpe": "Sennrich et al. 2016 (arXiv:1508.07909), algorithm 1",
    "wordpiece": "Schuster and Nakajima 2012; score as in the Hugging Face course; longest match of BERT",
    "unigram": "Kudo 2018 (arXiv:1804.10959), section 3.2",
}


def _tied(ties: Sequence[bpe.Pair]) -> str:
    return f", as {', '.join(' + '.join(pair) for pair in ties)}: first seen wins" if ties else ""


def _edge(word: str, edge: unigram.Edge) -> str:
    place = "." * edge.start + edge.piece + "." * (len(word) - edge.end)
    mark = "  best to here" if edge.best else ""
    return f"     {place:<{len(word)}}  log p {edge.logp:8.3f}   sum {edge.score:8.3f}{mark}"
