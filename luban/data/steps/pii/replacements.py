"""What stands in a text where personal data stood: a typed placeholder, or a fake that belongs to nobody."""

from __future__ import annotations

import zlib
from typing import Literal

Replace = Literal["placeholder", "fake"]
# Reserved for documentation and fiction: RFC 2606 and 5737, 3849; ITU and NANPA 555-01xx, Ofcom's drama numbers;
# the payment systems' test cards; AWS's own example key; areas never issued.
FAKES: dict[str, tuple[str, ...]] = {
    "email": ("email@example.com", "firstname.lastname@example.org", "contact@example.net"),
    "phone": ("+1 202 555 0143", "+1 312 555 0117", "+44 1632 960983", "+44 1632 960158"),
    "ip": ("192.0.2.17", "198.51.100.42", "203.0.113.99", "2001:db8::17"),
    "card": ("4111 1111 1111 1111", "5555 5555 5555 4444"),
    "id_card": ("000000190001010000", "000000190001010019"),
    "ssn": ("000-12-3456", "000-65-4321"),
    "iban": ("DE00 0000 0000 0000 0000 00", "GB00 EXAM 0000 0000 0000 00"),
    "key": ("AKIAIOSFODNN7EXAMPLE",),
    "credentials": ("user:password",),
    "address": ("1 Example Street", "12 Sample Road"),
    "person": ("Alex Example", "Kim Sample"),
    "location": ("Exampletown", "Sampleville"),
}
KNOWN = {value for values in FAKES.values() for value in values}


def replacement(kind: str, value: str, how: Replace) -> str:
    """`<EMAIL>` and so on; or a fake, the same one wherever this value stands."""
    if how == "placeholder":
        return f"<{kind.upper()}>"
    choices = FAKES[kind]
    return choices[zlib.crc32(value.encode()) % len(choices)]


def is_fake(value: str) -> bool:
    """Whether it is one of ours, so that a text that went through stays as it is."""
    return value in KNOWN
