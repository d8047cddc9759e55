"""What fewer bits cost and bring: the real SmolLM2-135M in each format of `luban export --quantize`, side by side.

    python benchmarks/bits.py [--rounds 5] [--json FILE] [--page docs/numbers.md]

Size on disk, loss on 4,096 tokens of the Gospel of Mark in windows of 512, and the CPU seconds of a greedily decoded
token on one thread. The formats take turns, round by round, in one process; figures are medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from luban.fetch import fetch_known

FORMATS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"quantize": "bfloat16"},
    "int8": {"quantize": "int8", "dtype": "bfloat16"},
    "int4, groups of 32": {"quantize": "int4", "group": 32, "dtype": "bfloat16"},
    "int4, groups of 64": {"quantize": "int4", "group": 64, "dtype": "bfloat16"},
    "nf4": {"quantize": "nf4", "dtype": "bfloat16"},
}
BEGIN, END = "<!-- figures of benchmarks/bits.py -->", "<!-- end -->"
TOKENS, WINDOW, NEW = 4096, 512, 8
PROMPT = "The master builder looked at the beam for a long time, then he said"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--page", type=Path)
    options = parser.parse_args()
    rows = measure(options.rounds)
    table = as_table(rows)
    print(table)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    if options.page:
        text = options.page.read_text(encoding="utf-8")
        before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
        options.page.write_text(f"{before}\n{table}\n{after}", encoding="utf-8")


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """For each format: megabytes, loss (nats per token) and milliseconds of CPU time for a token."""
    import torch

    from luban.device import DeviceConfig
    from luban.inference.local import open_lm

    source = fetch_known("smollm2")
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as work:
        models = {}
        for name, settings in FORMATS.items():
            folder = exported(source, Path(work) / str(len(rows)), settings)
            size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
            models[name] = open_lm(str(folder), DeviceConfig(device="cpu", threads=1))
            rows[name] = {"mb": size / 1e6, "loss": loss(models[name])}
            print(name, rows[name], flush=True)
        times: dict[str, list[float]] = {name: [] for name in models}
        torch.set_num_threads(1)
        for number in range(rounds + 1):
            for name, lm in models.items():
                seconds = decode(lm)
                times[name] += [seconds] if number else []  # the first round packs weights
    for name, found in times.items():
        rows[name]["ms"] = 1e3 * statistics.median(found)
        rows[name]["ms_min"], rows[name]["ms_max"] = 1e3 * min(found), 1e3 * max(found)
    return rows


def exported(source: Path, out: Path, settings: dict[str, Any]) -> Path:
    """The model's folder in the format of these settings of `luban export`."""
    from luban.inference import export

    if not settings:
        return source
    export.run(export.Config(model=source, out=out, **settings))
    return out


def loss(lm: Any) -> float:
    """Nats per token on the beginning of Mark, each window by itself."""
    import luban
    from luban.fetch import bible

    web = Path(luban.__file__).parent / "fetch" / "web.tsv.gz"
    text = "\n".join(
        line for name, verses in bible.chapters(web) if name.startswith("Mark") for line in verses
    )
    ids = lm.tokenizer.encode(text)[:TOKENS]
    windows = [lm.tokenizer.decode(ids[first : first + WINDOW]) for first in range(0, TOKENS, WINDOW)]
    logps = [logp for score in lm.score([("", window) for window in windows]) for logp in score.logps]
    return -sum(logps) / len(logps)


def decode(lm: Any) -> float:
    """CPU seconds of a token."""
    from luban.lm import Sampling

    begun = time.process_time()
    (made,) = lm.generate([PROMPT], Sampling(temperature=0, max_tokens=NEW, ignore_eos=True))
    assert len(made.tokens) == NEW
    return (time.process_time() - begun) / NEW


def as_table(rows: dict[str, dict[str, float]]) -> str:
    plain = rows["float32"]
    lines = [
        "| format | MB on disk | loss, nats per token | more than float32 | CPU ms per token | float32 is |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, row in rows.items():
        more, times = row["loss"] - plain["loss"], row["ms"] / plain["ms"]
        shown = f"{row['ms']:.1f} ({row['ms_min']:.1f} to {row['ms_max']:.1f})"
        lines.append(
            f"| {name} | {row['mb']:.0f} | {row['loss']:.4f} | {more:+.4f} | {shown} | {1 / times:.2f}x |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
