"""The house rules as tests: who may import whom, how long things may be, which names are not used."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from luban.cli import STAGES

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "luban"
FILES = sorted(PACKAGE.rglob("*.py"))

ANYONE = {"config", "errors", "folder", "device", "machine", "lm", "native"}
MAY_IMPORT = {
    "tokenizers": set[str](),
    "nn": set[str](),
    "ngram": set[str](),
    "data": {"tokenizers", "ngram"},
    "models": {"nn", "ngram"},
    "training": {"models", "data"},
    "peft": {"models"},
    "tuning": {"training", "peft", "evaluation"},
    "alignment": {"training", "tuning", "inference", "peft"},
    "gguf": {"models", "tokenizers"},
    "inference": {"models", "tokenizers", "peft", "gguf"},
    "evaluation": {"data"},
    "serving": {"inference", "data"},
    "fetch": {"models", "data", "gguf"},
    "catalogue": {"models"},
    "doctor": {"training"},
    "commands": set[str](),
    "quickstart": {"commands"},
    "ablate": {"commands", "data", "evaluation"},
    "cli": set[str](),
    "__init__": {"inference"},
    "__main__": {"cli"},
    **{name: set[str]() for name in ANYONE},
}
ORACLES = {"transformers", "peft", "trl", "datasets", "lm_eval"}
FORBIDDEN_NAMES = re.compile(r"^(utils?|common|helpers?|misc)$|Manager|Helper|^Base[A-Z]")
LONGEST_FILE, LONGEST_FUNCTION, DEEPEST = 400, 60, 3


def room(path: Path) -> str:
    """The part of the house a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def reachable(name: str) -> set[str]:
    """The rooms `name` may import: allowed ones, what those may, and what anyone may."""
    found, waiting = set(ANYONE) | {name, "__init__"}, set(MAY_IMPORT[name])
    while waiting:
        other = waiting.pop()
        if other not in found:
            found.add(other)
            waiting |= MAY_IMPORT[other]
    return found


def imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write imports in full"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def depth(node: ast.AST) -> int:
    """How many control blocks stand inside one another; an `elif` does not count as deeper."""
    deepest = 0
    blocks = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.AsyncFor, ast.AsyncWith, ast.Match)
    for child in ast.iter_child_nodes(node):
        chained = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        nested = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        deepest = max(deepest, 0 if nested else depth(child) + (isinstance(child, blocks) and not chained))
    return deepest


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_the_rooms_it_may(path: Path) -> None:
    allowed = reachable(room(path))
    for line, name in imports(path):
        parts = name.split(".")
        if parts[0] == "luban" and len(parts) > 1 and parts[1] != "__version__":
            assert parts[1] in allowed, (
                f"{path}:{line} imports {name}; {room(path)} may import {sorted(allowed)}"
            )


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_oracles_are_for_tests_only(path: Path) -> None:
    assert not {name.split(".")[0] for _, name in imports(path)} & ORACLES


@pytest.mark.parametrize("name", ["nn", "models"])
def test_blocks_and_families_know_nothing_of_distributed_training(name: str) -> None:
    for path in (PACKAGE / name).glob("*.py"):
        assert "torch.distributed" not in path.read_text("utf-8")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_can_be_read_at_once(path: Path) -> None:
    lines = path.read_text("utf-8").count("\n")
    assert lines <= LONGEST_FILE, f"{path} has {lines} lines"
    for node in functions(path):
        length = (node.end_lineno or 0) - node.lineno + 1
        assert length <= LONGEST_FUNCTION, f"{path}:{node.lineno} {node.name} has {length} lines"
        assert depth(node) <= DEEPEST, f"{path}:{node.lineno} {node.name} nests {depth(node)} deep"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_say_what_things_are(path: Path) -> None:
    names = [path.stem, *path.relative_to(PACKAGE).parts[:-1]]
    tree = ast.parse(path.read_text("utf-8"))
    names += [n.name for n in ast.walk(tree) if isinstance(n, ast.ClassDef | ast.FunctionDef)]
    assert not [name for name in names if FORBIDDEN_NAMES.search(name)]
    assert ast.get_docstring(tree), f"{path} says nowhere what it is for"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_checks_are_switched_off_only_with_a_reason(path: Path) -> None:
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if re.search(r"#\s*(noqa|type: ignore|pyright: ignore)", line):
            assert re.search(r"(noqa|ignore)\S*( [A-Z]+\d+)* [-–] \w", line), (
                f"{path}:{number} gives no reason"
            )


def test_every_stage_is_documented() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    missing = [name for name in STAGES if f"luban {name}" not in readme]
    assert not missing


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_can_be_asked_for_help_without_torch(stage: str) -> None:
    asked = f"from luban.cli import main; main({[*stage.split(), '--help']!r})"
    code = f"import sys; {asked}; assert 'torch' not in sys.modules"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    undocumented = re.findall(r"^  --(\S+).*\n(?!        )", shown.stdout, re.MULTILINE)
    assert not undocumented, f"settings of {stage} without a docstring: {undocumented}"


def test_the_front_door_opens_at_once() -> None:
    def best_of(count: int, code: str) -> float:
        timed = f"import time; t = time.perf_counter(); {code}; print(time.perf_counter() - t)"
        runs = [subprocess.check_output([sys.executable, "-c", timed], text=True) for _ in range(count)]
        return min(float(run.split()[-1]) for run in runs)

    assert best_of(3, "import luban") < 0.1
    assert best_of(3, "from luban.cli import main; main(['--help'])") < 0.3
