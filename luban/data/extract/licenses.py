"""Addresses of licences by the names that SPDX gives them: how web pages say what may be done with them."""

from __future__ import annotations

import re

COMMONS = re.compile(
    r"https?://(?:www\.)?creativecommons\.org/(licenses|publicdomain)/([a-z+-]+)/(\d\.\d)(?:/([a-z]{2,3}))?"
    r"(?:/(?:deed|legalcode|rdf)[\w.-]*)?/?(?:[?#].*)?$"
)
OTHERS = {
    "gnu.org/licenses/fdl-1.3": "GFDL-1.3",
    "gnu.org/licenses/fdl-1.2": "GFDL-1.2",
    "gnu.org/licenses/gpl-3.0": "GPL-3.0",
    "gnu.org/licenses/old-licenses/gpl-2.0": "GPL-2.0",
    "apache.org/licenses/license-2.0": "Apache-2.0",
    "opensource.org/license/mit": "MIT",
    "opensource.org/licenses/mit": "MIT",
}
"""By what an address holds, in lower case."""
ADDRESS = re.compile(r"https?://[\w-]+(?:\.[\w-]+)+(?:[:/?#]\S*)?$")


def license_at(address: str) -> str | None:
    """The SPDX name of the licence at an address, the address itself if it has none here; None if it is no address.

    A Creative Commons licence of one jurisdiction has its code behind: `CC-BY-SA-3.0-DE`.
    """
    address = address.strip()
    if address.startswith("//"):
        address = f"https:{address}"
    if commons := COMMONS.match(address.lower()):
        return _commons(*commons.groups())
    if not ADDRESS.match(address):
        return None
    return next((name for part, name in OTHERS.items() if part in address.lower()), address)


def _commons(kind: str, name: str, version: str, place: str | None) -> str:
    if kind == "publicdomain":
        return f"CC0-{version}" if name == "zero" else f"CC-PDM-{version}"
    return "-".join(part.upper() for part in ("CC", name, version, place) if part)
