"""The chain as datatrove's users run it; started by `chain.py` with the peer's own Python.

    python peer_chain.py IN OUT [--clusters] [--only-dedup] [--seed N]

IN holds .jsonl files; OUT gets filtered/ (after the filters) and kept/ (after deduplication). Prints the seconds of
each stage. `--clusters` writes gone/ too, and the number of its cluster to each document (more work, never timed).
"""

# pyright: reportMissingImports=false
# (datatrove lives in an environment of its own)

import json
import shutil
import sys
import time
from pathlib import Path


def main() -> None:
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    clusters, only_dedup = "--clusters" in sys.argv, "--only-dedup" in sys.argv
    shutil.rmtree(out, ignore_errors=True)
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers.jsonl import JsonlWriter

    seed = int(sys.argv[sys.argv.index("--seed") + 1]) if "--seed" in sys.argv else 1  # 1: its default
    config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8, seed=seed)
    files = len(list(source.glob("*.jsonl")))
    filtered = source if only_dedup else out / "filtered"
    gone = JsonlWriter(str(out / "gone"), compression=None) if clusters else None

    def reader(folder: Path) -> JsonlReader:
        return JsonlReader(str(folder), glob_pattern="*.jsonl")

    stages = {
        "filters": [
            reader(source),
            GopherRepetitionFilter(),
            GopherQualityFilter(),
            JsonlWriter(str(filtered), compression=None),
        ],
        "signatures": [
            reader(filtered),
            MinhashDedupSignature(output_folder=str(out / "signatures"), config=config),
        ],
        "buckets": [
            MinhashDedupBuckets(str(out / "signatures"), output_folder=str(out / "buckets"), config=config)
        ],
        "cluster": [
            MinhashDedupCluster(
                str(out / "buckets"), str(out / "remove"), config=config, save_cluster_id=clusters
            )
        ],
        "filter": [
            reader(filtered),
            MinhashDedupFilter(str(out / "remove"), exclusion_writer=gone, load_cluster_ids=clusters),
            JsonlWriter(str(out / "kept"), compression=None),
        ],
    }
    if only_dedup:
        del stages["filters"]
    tasks = {"buckets": 14, "cluster": 1}
    took = {}
    for name, steps in stages.items():
        began = time.perf_counter()
        LocalPipelineExecutor(
            pipeline=steps, tasks=tasks.get(name, files), workers=2, logging_dir=str(out / "logs" / name)
        ).run()
        took[name] = time.perf_counter() - began
    print(json.dumps(took))


if __name__ == "__main__":
    main()
