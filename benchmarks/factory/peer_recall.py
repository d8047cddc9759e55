"""Which pairs of texts datatrove's MinHash brings together; started by `recall.py` with the peer's own Python.

    python peer_recall.py TEXTS.jsonl OUT.npz SEEDS

TEXTS holds a list of two texts a line. OUT gets `met`, bool [seeds, pairs]: whether the two agree in a bucket under
the hash functions of each seed from 1 on; and `jaccard` [pairs], the similarity of their sets of shingles. Shingles,
hash functions and signatures are datatrove's own.
"""

# pyright: reportMissingImports=false
# (datatrove lives in an environment of its own)

import json
import multiprocessing
import sys
import tempfile
from pathlib import Path

import numpy as np

WORKERS = 2
STEPS = []
"""One signature step of each seed; every worker makes its own."""


def main() -> None:
    source, out, seeds = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with Path(source).open(encoding="utf-8") as file:
        pairs = [json.loads(line) for line in file]
    with multiprocessing.Pool(WORKERS, make_steps, (seeds,)) as pool:
        found = pool.map(compare, pairs, chunksize=16)
    np.savez(out, met=np.array([met for met, _ in found]).T, jaccard=np.array([alike for _, alike in found]))


def make_steps(seeds: int) -> None:
    from datatrove.pipeline.dedup import MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig

    for seed in range(1, seeds + 1):
        config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8, seed=seed)
        STEPS.append(MinhashDedupSignature(output_folder=tempfile.gettempdir(), config=config))


def compare(pair: list[str]) -> tuple[list[bool], float]:
    """Whether the texts meet, by seed, and how alike they are."""
    shingles = [STEPS[0].get_shingles(text) for text in pair]
    one, other = (set(each.ravel().tolist()) for each in shingles)
    return [_meet(step, shingles) for step in STEPS], len(one & other) / max(1, len(one | other))


def _meet(step, shingles: list[np.ndarray]) -> bool:
    if any(each.size == 0 for each in shingles):  # such a text is left out
        return False
    one, other = (step.get_signature(each) for each in shingles)
    return any(mine == yours for mine, yours in zip(one, other, strict=True))


if __name__ == "__main__":
    main()
