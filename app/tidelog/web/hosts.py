"""What browsers say of where a page is from and whom it talks to: the headers Host and Origin, taken apart."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache

DEFAULT_PORTS = {"http": "80", "https": "443"}  # of the schemes that pages have
NAMES_KEPT = 256  # headers that are not taken apart for each request anew
LENGTH_MAX = 300  # a name of the DNS has 253 characters

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?#@\s]+)", re.ASCII)
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:,\s]+)(?::(\*|\d{1,5}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Host:
    """A name (lower case, without the dot that may end it) and a port as text, "" if there is none."""

    name: str
    port: str

    @property
    def is_loopback(self) -> bool:
        """Whether browsers find it on their own machine, without asking anybody."""
        # RFC 6761 6.3
        return self.name == "localhost" or self.name.endswith(".localhost") or is_loopback_address(self.name)

    def fits(self, pattern: Host) -> bool:
        """Whether it is what an entry of a setting allows: `*.` before a name is any subdomain, port `*` any port."""
        if pattern.port not in ("*", self.port):
            return False
        if pattern.name.startswith("*."):
            return self.name.endswith(pattern.name[1:])
        return pattern.name in ("*", self.name)


@dataclass(frozen=True, slots=True)
class Origin:
    """Of a page: its scheme, and its host with a port in any case, but for schemes that we know none of."""

    scheme: str
    host: Host

    def fits(self, pattern: Origin) -> bool:
        """Whether it is what an entry of a setting allows."""
        return self.scheme == pattern.scheme and self.host.fits(pattern.host)

    def is_at(self, host: Host) -> bool:
        """Whether a page of this origin came from `host`. Who ends TLS before us knows the scheme, we don't."""
        port = DEFAULT_PORTS.get(self.scheme)
        return port is not None and self.host == Host(host.name, host.port or port)


@lru_cache(NAMES_KEPT)
def parse_host(text: str) -> Host | None:
    """A Host header, or None if it is none."""
    match = _AUTHORITY.fullmatch(text.lower())
    if match is None:
        return None
    name, port = match[1], match[2] or ""
    try:
        return Host(str(ipaddress.ip_address(name.strip("[]").removesuffix("."))), port)
    except ValueError:
        return None if name.startswith("[") else Host(name.removesuffix("."), port)


@lru_cache(NAMES_KEPT)
def parse_origin(text: str) -> Origin | None:
    """An Origin header, or None if it is none; `null` is none."""
    match = _ORIGIN.fullmatch(text.lower())
    host = parse_host(match[2]) if match else None
    if match is None or host is None:
        return None
    return Origin(match[1], Host(host.name, host.port or DEFAULT_PORTS.get(match[1], "")))


@lru_cache(NAMES_KEPT)
def is_loopback_address(address: str) -> bool:
    """Whether it is an IP address of this machine alone; neither names nor the paths of socket files are."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
