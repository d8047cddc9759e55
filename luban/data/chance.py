"""Chance that a text carries with it: the same draw whatever its place, its batch or the machine."""

from __future__ import annotations

import hashlib


def draw(text: bytes | memoryview, seed: int) -> float:
    """A number in [0, 1), uniform over texts; another `seed` is another draw."""
    digest = hashlib.blake2b(text, digest_size=8, key=str(seed).encode()).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53
