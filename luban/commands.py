"""Stages as a user runs them: what `quickstart` and `data ablate` are made of."""

from __future__ import annotations

import signal
import subprocess
import sys
import time


def luban(*words: object, capture: bool = False) -> str:
    """Run `luban WORDS` as a user would, its command and time shown; a failure ends the caller with its code."""
    command = [str(word) for word in words]
    shown = " ".join(repr(word) if " " in word or "\n" in word else word for word in command)
    print(f"\n$ luban {shown}", file=sys.stderr, flush=True)
    begun = time.monotonic()
    # Ctrl-C reaches the stage too: it saves and ends with 130, and killing it meanwhile would lose its steps.
    ours = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "luban", *command],
            text=True,
            stdout=subprocess.PIPE if capture else None,
            check=False,
        )
    finally:
        signal.signal(signal.SIGINT, ours)
    print(f"  [{time.monotonic() - begun:.1f} s]", file=sys.stderr, flush=True)
    if done.returncode:
        raise SystemExit(done.returncode)
    return done.stdout or ""
