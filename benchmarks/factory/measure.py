"""Whole commands and single functions, timed in turn, with the memory of everything they start."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import json
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from luban.folder import write_json

RESULTS = Path("runs/benchmarks")
COMPILED = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""Commands find their modules compiled, as on a user's machine: installed ones are, a checkout's would not be."""
Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one command took."""

    wall_s: float
    cpu_s: float
    """Of the command and all it started."""
    peak_mb: float = 0
    """Proportional set size of the whole process tree; 0 if it was not sampled."""
    output: str = ""


def command(
    words: Sequence[str | Path], *, sample_s: float | None = None, env: Mapping[str, str] | None = None
) -> Run:
    """Run a command to its end; every `sample_s` seconds its tree's memory is added up (which costs it time).

    Raises SystemExit with the last of its output if it fails.
    """
    _adopt_orphans()
    os.sync()  # what the one before left to write is not this one's
    others = _tree(os.getpid())
    before, began = _children_cpu(others), time.perf_counter()
    process = subprocess.Popen(
        [*map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**COMPILED, **(env or {})},
    )
    peak = [0.0]
    watcher = threading.Thread(target=_watch, args=(process.pid, sample_s, peak), daemon=True)
    if sample_s:
        watcher.start()
    assert process.stdout is not None
    output = process.stdout.read().decode("utf-8", "replace")
    process.wait()
    wall = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"{words[0]} failed ({process.returncode}):\n{output[-3000:]}")
    return Run(wall_s=wall, cpu_s=_children_cpu(others) - before, peak_mb=peak[0], output=output)


def in_turn(sides: Mapping[str, Callable[[], Value]], rounds: int) -> dict[str, list[Value]]:
    """What each side gives, `rounds` times, one after the other within a round."""
    found: dict[str, list[Value]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, run in sides.items():
            found[name].append(value := run())
            took = f"{value.wall_s:.2f} s" if isinstance(value, Run | Work) else ""
            print(f"  round {number + 1} of {rounds}: {name} {took}", flush=True)
    return found


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one piece of work took, in a process of its own that was ready to begin."""

    wall_s: float
    cpu_s: float
    grown_mb: float
    """Peak memory over what the process had before."""
    value: Any
    """What the work returned."""


def apart(prepare: Callable[..., Callable[[], Any]], *arguments: Any) -> Work:
    """`prepare(*arguments)` in a fresh process, and then, measured, what it returned."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_work, prepare, arguments).result()


def together(prepare: Callable[..., Callable[[], Any]], each: Sequence[Sequence[Any]]) -> Work:
    """`apart` for all of `each` at once, begun together: wall time of the slowest, the other figures added up.

    Each has a core of its own: short work would be over before the kernel had parted them.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(len(each), timeout=600)
    cores = itertools.cycle(sorted(os.sched_getaffinity(0)))
    with ProcessPoolExecutor(len(each), mp_context=context, initializer=_share, initargs=(barrier,)) as pool:
        begun = [pool.submit(_work_on, *one) for one in zip(cores, itertools.repeat(prepare), each)]
        works = [one.result() for one in begun]
    return Work(
        wall_s=max(work.wall_s for work in works),
        cpu_s=sum(work.cpu_s for work in works),
        grown_mb=sum(work.grown_mb for work in works),
        value=sum(work.value for work in works),
    )


_barriers: list[Any] = []
"""Of a process that `together` started: the one where all meet."""


def meet() -> None:
    """Wait for the others that `together` started; a process that is `apart` goes on."""
    for barrier in _barriers:
        barrier.wait()


def _share(barrier: Any) -> None:
    _barriers.append(barrier)


def _work_on(core: int, prepare: Callable[..., Callable[[], Any]], arguments: Sequence[Any]) -> Work:
    os.sched_setaffinity(0, {core})
    return _work(prepare, arguments)


def _work(prepare: Callable[..., Callable[[], Any]], arguments: Sequence[Any]) -> Work:
    work = prepare(*arguments)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status_mb("VmRSS")
    meet()
    wall, cpu = time.perf_counter(), time.process_time()
    value = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Work(wall_s=wall, cpu_s=cpu, grown_mb=_status_mb("VmHWM") - before, value=value)


def _status_mb(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:"))


def rates(
    megabytes: float, works: Mapping[str, Sequence[Work]], first: str | None = None
) -> list[dict[str, Any]]:
    """A row per side: MB per CPU second (this machine's cores are shared), and how many times `first` is as fast."""
    rows = []
    for side, each in works.items():
        cpu = [work.cpu_s for work in each]
        row = {"": side, "MB per CPU s": spread([megabytes / one for one in cpu], 1)}
        if first and side != first:
            row[f"{first} is"] = times(cpu, [work.cpu_s for work in works[first]])
        rows.append({**row, "memory grows MB": round(max(work.grown_mb for work in each), 1)})
    return rows


def clock_rates(megabytes: float, works: Mapping[str, Sequence[Work]]) -> list[dict[str, Any]]:
    """A row per side: MB per second of the clock, beside MB per CPU second (of all its processes)."""
    return [
        {
            "": side,
            "MB/s": spread([megabytes / work.wall_s for work in each], 1),
            "MB per CPU s": spread([megabytes / work.cpu_s for work in each], 1),
            "memory grows MB": round(max(work.grown_mb for work in each), 1),
        }
        for side, each in works.items()
    ]


def times(slow: Sequence[float], fast: Sequence[float]) -> str:
    """`ratio` in words."""
    found = ratio(slow, fast)
    return f"{found['median']:.1f}x ({found['min']:.1f} to {found['max']:.1f})"


def ratio(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    """How many times as long `slow` took: the median of the rounds' own ratios, the least and the most."""
    each = [a / b for a, b in zip(slow, fast, strict=True)]
    return {"median": statistics.median(each), "min": min(each), "max": max(each)}


def spread(values: Sequence[float], digits: int = 2) -> str:
    """The median with the range behind it."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def table(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows under their names as Markdown."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, ["---"] * len(names), *[[_cell(row.get(name, "")) for name in names] for row in rows]]
    print(f"\n{title}\n")
    print("\n".join("| " + " | ".join(line) + " |" for line in lines), flush=True)


def save(name: str, found: Mapping[str, Any]) -> Path:
    """Write what was measured, with the machine's state, to `runs/benchmarks/NAME.json`."""
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    machine = {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
    }
    write_json(path, json.loads(json.dumps({"machine": machine, **found}, default=_plain)))
    return path


def _plain(value: Any) -> Any:
    return asdict(value) if hasattr(value, "__dataclass_fields__") else str(value)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _adopt_orphans() -> None:
    """Make processes whose parent ends our own (Linux), so that their time can be counted, a fork server's too."""
    PR_SET_CHILD_SUBREAPER = 36  # noqa: N806 - the kernel's name
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _children_cpu(besides: Sequence[int]) -> float:
    """CPU seconds of all that has ended below this process; waits up to 10 s for what is still ending."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and (ending := set(_tree(os.getpid())) - {os.getpid(), *besides}):
        for child in ending:
            with contextlib.suppress(ChildProcessError):  # it is not ours yet
                os.waitpid(child, os.WNOHANG)
        time.sleep(0.01)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def tree_cpu_s() -> float:
    """CPU seconds of this process and all that runs below it now."""
    ticks = 0
    for pid in _tree(os.getpid()):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _watch(pid: int, every: float | None, peak: list[float]) -> None:
    while Path(f"/proc/{pid}").exists():
        peak[0] = max(peak[0], sum(map(_pss_mb, _tree(pid))))
        time.sleep(every or 1)


def _tree(pid: int) -> list[int]:
    """A process and all its descendants; those that end meanwhile are left out."""
    found, waiting = [], [pid]
    while waiting:
        found.append(one := waiting.pop())
        for children in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                waiting += map(int, children.read_text().split())
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def _pss_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
