"""From which address a request came: the connection's own, or, behind proxies that are trusted, what they say.

A proxy adds the address that it was called from at the end of a header; what stands before that is what it was given,
and may be anything. So the header is read from its end, as long as the address that was called from is a trusted
proxy's. Only one header is read, the one that these proxies write: others they hand on as clients sent them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from litestar.types import Scope

from tidelog.settings import UNIX, Settings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

ADDRESS_LENGTH_MAX = 60  # of IPv6 with brackets, a port and some spaces: nothing longer is looked at, or kept
ADDRESSES_KEPT = 1024  # that are not taken apart for each connection anew
HOPS_MAX = 20  # of proxies behind each other; no more are looked for
# What one customer of a network has at least of IPv6 (RFC 6177): counted one by one, its addresses would have no end.
IPV6_PREFIX_LENGTH = 64


class Addresses:
    """What the settings say of proxies."""

    def __init__(self, settings: Settings) -> None:
        said = settings.trusted_proxies or ()
        self._trusts_unix = UNIX in said
        self._trusted: list[Network] = [ipaddress.ip_network(one, strict=False) for one in said if one != UNIX]
        self._header = settings.proxy_header.encode()
        self._is_forwarded = settings.proxy_header == "forwarded"

    def of(self, scope: Scope) -> str | None:
        """The client's address; None if there is none, as of one that comes by a Unix socket and no proxy."""
        peer = peer_of(scope)
        if not self.trusts(peer):
            return peer
        nearest = peer
        for count, said in enumerate(self._said(scope["headers"])):
            address = read_address(said)
            if address is None or count >= HOPS_MAX:
                break  # whoever called that proxy, it does not say
            nearest = address
            if not self.trusts(address):
                break
        return nearest

    def trusts(self, peer: str | None) -> bool:
        """Whether it is a proxy's, which is believed what it says. None: it comes by a Unix socket."""
        if peer is None:
            return self._trusts_unix
        if not self._trusted:
            return False
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        return any(address in network for network in self._trusted)

    def _said(self, headers: Iterable[tuple[bytes, bytes]]) -> Iterator[str]:
        """The addresses in the header, the last one first. Several headers of a name are one (RFC 9110 5.3)."""
        lines = [value for name, value in headers if name == self._header]
        for line in reversed(lines):
            # No address has a comma. What a client has put before it, in quotes or not, is not looked at.
            for element in reversed(line.decode("latin-1").rsplit(",", HOPS_MAX + 1)):
                yield _for(element) if self._is_forwarded else element


def peer_of(scope: Scope) -> str | None:
    """The address of whoever made the connection."""
    client: Any = scope.get("client")
    return client_address(client[0]) if client and client[0] else None


def client_address(text: str) -> str:
    """As it is compared: an IPv4 address that is written as one of IPv6 is that of IPv4."""
    return read_address(text) or text


def read_address(text: str) -> str | None:
    """An address as proxies write it, perhaps with a port: `192.0.2.1:4711`, `[2001:db8::1]:4711`; else None."""
    return _read(text) if len(text) <= ADDRESS_LENGTH_MAX else None


@lru_cache(ADDRESSES_KEPT)
def _read(text: str) -> str | None:
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    if "%" in text:
        return None  # of one link only
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


@lru_cache(ADDRESSES_KEPT)
def counted_as(address: str) -> str:
    """What counts as one client: an address of IPv4, or the network that an address of IPv6 is in."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    return str(ipaddress.ip_network((parsed, IPV6_PREFIX_LENGTH), strict=False))


def _for(element: str) -> str:
    """The address in an element of `Forwarded` (RFC 7239 4): for="[2001:db8::1]:4711";proto=https; else ""."""
    found = [value for name, _, value in (pair.partition("=") for pair in element.split(";")) if _is_for(name)]
    if len(found) != 1:
        return ""
    value = found[0].strip()
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value


def _is_for(name: str) -> bool:
    return name.strip().lower() == "for"
