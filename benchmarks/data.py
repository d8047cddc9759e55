"""Luban's data factory beside its peers on this machine, on real text with planted duplicates.

    python benchmarks/data.py chain --peer-python peers/bin/python

The first run downloads pinned Debian manuals (about 120 MB) and builds the corpora; they stay in `$LUBAN_HOME`, else
`~/.cache/luban`, under `benchmarks`. Sides take turns, each measurement in a fresh process; results are printed as
tables and written to `runs/benchmarks/*.json`. A Python with datatrove for `chain`, `dedup` and `recall`:

    python3.11 -m venv peers && peers/bin/pip install 'datatrove[processing]==0.10.1' spacy orjson

The other peers stand in Luban's own environment: `pip install pydivsufsort scikit-learn kenlm-ex warcio trafilatura`.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

COMPARISONS = {
    "chain": "JSONL -> Gopher filters -> MinHash -> JSONL beside datatrove: speed, memory, decisions, recall",
    "dedup": "near-duplicates alone: signatures, grouping, recall, precision; datatrove's four stages",
    "recall": "recall of near-duplicates over many draws of hash functions beside datatrove; chance in its decisions",
    "substrings": "repeated passages beside building a suffix array (pydivsufsort)",
    "extract": "main text beside resiliparse and trafilatura: speed",
    "ngram": "training an n-gram model; scoring beside KenLM",
    "classifier": "the quality classifier beside scikit-learn",
    "pii": "personal data beside plain `re`; recall and precision on planted values",
    "read": "JSON lines and WARC beside json, fastwarc, warcio",
    "warc": "a crawl to token shards: speed and memory of whole commands",
    "scale": "10, 100, 1000 MB under one bound of memory: seconds per MB of each step",
    "many": "1, 3, 10 million short documents: signatures, groups, split; seconds and memory",
    "ray": "the chain on Ray beside the pool: equal bytes, time",
}
MEGABYTES = {"warc": 100.0, "recall": 100.0}
KINDS = {"recall": "mixed"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="name", required=True)
    for name, about in COMPARISONS.items():
        command = commands.add_parser(name, help=about, description=about)
        command.add_argument("--rounds", type=int, default=1 if name == "scale" else 3)
        command.add_argument(
            "--kind", choices=("prose", "mixed"), default=KINDS.get(name, "prose"), help="which corpus"
        )
        command.add_argument("--megabytes", type=float, default=MEGABYTES.get(name, 22.5))
        if name == "recall":
            command.add_argument("--draws", type=int, default=40, help="of hash functions")
        if name in ("chain", "dedup", "recall"):
            command.add_argument("--peer-python", type=Path, help="a Python that can import datatrove")
        if name == "warc":
            command.add_argument("--recipe", default="refinedweb")
        if name == "scale":
            command.add_argument("--largest", type=int, default=1000, help="leave out larger sizes (MB)")
        if name == "many":
            command.add_argument("--most", type=int, default=10, help="leave out larger sizes (million)")
        if name in ("scale", "many"):
            command.add_argument(
                "--scratch", type=Path, help="a folder with 5 to 8 GB of room for what is made"
            )
    options = parser.parse_args()
    importlib.import_module(f"factory.{options.name}").run(options)


if __name__ == "__main__":
    main()
