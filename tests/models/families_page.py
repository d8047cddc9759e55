"""docs/families.md: every family with its file, paper, distance from its reference, and what it shares.

    python -m tests.models.families_page    writes it again

Everything but the distances follows from the code, and a test compares; a stated distance is one that the measured
one stays below.
"""

from __future__ import annotations

import ast
import inspect
import math
import re
from collections.abc import Mapping
from pathlib import Path

from luban.folder import write_text
from luban.models import FAMILIES
from tests.models.parity import WAYS, families, measure

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "families.md"
ELSEWHERE = {
    "ngram": "KenLM",
    "feedforward": "its equation, by hand",
    "rnn": "`torch.nn.RNN`",
    "lstm": "`torch.nn.LSTM`",
    "gru": "`torch.nn.GRU`",
    "rnnsearch": "its equations, by hand",
    "transformer": "`torch.nn.Transformer`",
}
"""What families that `transformers` does not have are compared with, in their own tests."""
Stated = Mapping[str, Mapping[str, str]]

HEAD = """# Model families

Written by `python -m tests.models.families_page`; a test keeps it true. `luban models` lists the same families with
sizes, `luban pretrain --model FAMILY` trains a new one.

Each family is compared with a tiny random model of `transformers` {version}, in float32: the largest difference of
any logit, stated as a round number at least three times what was measured. *plain*: whole rows; *cached*: one token
after another; *padded*: rows of several lengths in one batch; *saved*: what Luban wrote, read by `transformers`. A
family that `transformers` does not have names what its tests compare it with, to 1e-4 or closer.

| family | kind | file | paper | positions | {ways} | blocks of `luban/nn` |
|---|---|---|---|---|{lines}|---|
"""


def page(stated: Stated, version: str) -> str:
    """The page with these distances, and the version of transformers they were measured with."""
    rows = [_row(name, stated.get(name)) for name in FAMILIES]
    head = HEAD.format(version=version, ways=" | ".join(WAYS), lines="|".join(["---:"] * len(WAYS)))
    return head + "\n".join(rows) + "\n"


def stated_in(text: str) -> tuple[dict[str, dict[str, str]], str]:
    """The distances that a page states, by family and way, and its version of transformers."""
    version = re.search(r"`transformers` (\S+),", text)
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| `")]
    cells = {row[0].strip(" `"): [cell.strip() for cell in row[5 : 5 + len(WAYS)]] for row in rows}
    stated = {
        family: {way: cell for way, cell in zip(WAYS, row, strict=False) if re.fullmatch(r"\de-\d+", cell)}
        for family, row in cells.items()
    }
    return {family: row for family, row in stated.items() if row}, version[1] if version else ""


def bound(error: float) -> str:
    """The next of 1, 2, 5, 10, ... at or above three times `error`, from 1e-06 on: machines round differently."""
    least = max(3 * error, 1e-6)
    exponent = math.floor(math.log10(least))
    steps = [float(f"{digit}e{exponent + up}") for up in (0, 1) for digit in (1, 2, 5)]
    return f"{next(step for step in steps if step >= least):.0e}"


def measured() -> dict[str, dict[str, str]]:
    """Bounds of what this machine measures."""
    return {name: {way: bound(error) for way, error in measure(name).items()} for name in families()}


def _row(name: str, stated: Mapping[str, str] | None) -> str:
    family = FAMILIES[name]
    file = Path(inspect.getfile(family.model))
    link = f"[{file.name}](../{file.relative_to(ROOT)})"
    told = [stated.get(way, "") for way in WAYS] if stated else [ELSEWHERE[name]] + [""] * (len(WAYS) - 1)
    cells = [f"`{name}`", family.kind, link, family.paper, family.positions, *told, ", ".join(_blocks(file))]
    return f"| {' | '.join(cells)} |"


def _blocks(file: Path) -> list[str]:
    """The modules of `luban/nn` that a family's file takes blocks from."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    found = {module.removeprefix("luban.nn.") for module in modules if module.startswith("luban.nn.")}
    return sorted(found - {"init", "linear"})  # every family has those


if __name__ == "__main__":
    import torch
    import transformers

    torch.set_num_threads(1)
    write_text(PAGE, page(measured(), transformers.__version__))
