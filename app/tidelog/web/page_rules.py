"""Which web pages may use this server, by what browsers say in every request: Host, Origin, Sec-Fetch-Site.

A browser lets any page open a WebSocket to any address, and POST a form to it, also to a developer's machine. And it
takes a page's own name for the page's own server, whatever address the name leads to by then (DNS rebinding). So:

- A request names a host that this server is meant to be. On a loopback address those are the loopback names, as
  everything else that leads there is somebody's trick; elsewhere any, unless TIDELOG_ALLOWED_HOSTS is set.
- A handshake, or a request that may change something, comes from a page of the same origin, from one that
  TIDELOG_CORS_ORIGINS allows, or from no page. Where that isn't set, pages on a developer's machine (Vite's, say) may
  use a server that they find there. Who else may read an answer is the browser's to hold, as CORS tells it.
- Who is known by what browsers send by themselves, as cookies, is that user only for pages of the same origin, and
  those that the setting names: neither `*` nor the rule for a developer's machine names any.

Other programs send no Origin and may say what they like; nothing here is authentication.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, NamedTuple, cast

from litestar.connection import ASGIConnection
from litestar.exceptions import PermissionDeniedException
from litestar.handlers import BaseRouteHandler
from litestar.types import Scope

from tidelog.errors import HostForbiddenError, OriginForbiddenError, shown
from tidelog.settings import Settings
from tidelog.web.handshake import is_sign_of_one
from tidelog.web.hosts import DEFAULT_PORTS, LENGTH_MAX, Host, is_loopback_address, parse_host, parse_origin

TOLD_MAX = 100  # different hosts and origins that the log names; pages can make up any number

_OURS = ("same-origin", "none")  # of Sec-Fetch-Site; "none" is the user's own doing, as by the address bar

logger = logging.getLogger(__name__)


class Said(NamedTuple):
    """What a request's headers say: of each of the first three, what comes twice is neither."""

    host: str | None
    origin: str | None
    site: str | None  # Sec-Fetch-Site
    is_handshake: bool  # of a WebSocket


class PageRules:
    """What the settings say of hosts and origins."""

    def __init__(self, settings: Settings) -> None:
        at = settings.host
        listens_at = parse_host(f"[{at}]" if ":" in at else at)
        self._is_local = listens_at is not None and listens_at.is_loopback
        hosts = settings.allowed_hosts
        self._hosts = None if hosts is None else [Host(one.name, "*") for one in map(parse_host, hosts) if one]
        self._allows_all_hosts = "*" in (hosts or ())
        self._said_origins = settings.cors_origins
        self._origins = [one for one in map(parse_origin, settings.cors_origins or ()) if one]
        self.allows_all = "*" in (settings.cors_origins or ())
        self._told: set[tuple[str, str]] = set()

    @property
    def words(self) -> str:
        """Which pages of other origins may use the server, for the person who started it."""
        if self._said_origins is not None:
            return f"of {', '.join(self._said_origins)}" if self._said_origins else "of other origins are refused"
        if self._is_local:
            return "of http://localhost:* and http://127.0.0.1:* (Vite's, say)"
        return "of other origins are refused"

    def check_host(self, host: str | None, server: tuple[str, int | None] | None) -> Host | None:
        """The host that a request to our address `server` names. Raises HostForbiddenError."""
        parsed = None if host is None else parse_host(host)
        if host is None or self._may_name(parsed, server):
            return parsed
        self._tell("refused a request", "host", host, f"TIDELOG_ALLOWED_HOSTS={parsed.name if parsed else '*'}")
        raise HostForbiddenError(
            f"this server is not {shown(host)}; its log says which setting (TIDELOG_ALLOWED_HOSTS) would allow it"
        )

    def check_origin(self, origin: str | None, site: str | None, host: Host | None) -> None:
        """Raise OriginForbiddenError if a page may not do what changes something, or open a socket.

        `site` is Sec-Fetch-Site, which pages can't set: it tells of the same origin also behind a proxy that renames us
        (https://www.w3.org/TR/fetch-metadata/).
        """
        if site in _OURS or self.allows_all or (origin is None and site is None):
            return
        if origin is not None and (self.allows(origin, host) or _is_same(origin, host)):
            return
        said = origin if origin is not None else f"one that the browser doesn't name, {site}"
        self._tell("refused a request", "origin", said, self._remedy(origin))
        raise OriginForbiddenError(
            f"pages of {shown(said)} may not use this server; its log says which setting (TIDELOG_CORS_ORIGINS) "
            "would allow them"
        )

    def check_ambient(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Raise OriginForbiddenError if a page may not act as the user that its browser made known by itself.

        For whoever was authenticated by cookies, HTTP's own passwords, certificates: not by a token that the page gave.
        """
        said_host, origin, site, _is_handshake = said_by(headers)
        if site in _OURS or (origin is None and site is None):
            return
        host = None if said_host is None else parse_host(said_host)
        if origin is not None and (self._is_named(origin) or _is_same(origin, host)):
            return
        said = origin if origin is not None else f"one that the browser doesn't name, {site}"
        # What would allow a page without a name, would allow all: that is not a remedy here.
        remedy = self._remedy(origin) if _is_name(origin) else "a page with an origin of its own"
        self._tell("refused a request with a user's cookies", "origin", said, remedy)
        raise OriginForbiddenError(
            f"pages of {shown(said)} may not use this server with its users' cookies: TIDELOG_CORS_ORIGINS names others"
        )

    def guard_socket(self, connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        """The same for a socket in somebody's application, as a guard of Litestar's: 403 instead of a handshake.

        Browsers send cookies with it from any page, and what Litestar has against that (CSRF, CORS) is for HTTP.
        """
        said_host, origin, site, _is_handshake = said_by(connection.scope["headers"])
        try:
            self.check_origin(origin, site, None if said_host is None else parse_host(said_host))
            if _is_known_by_itself(connection.scope):
                self.check_ambient(connection.scope["headers"])
        except OriginForbiddenError as error:
            raise PermissionDeniedException(str(error)) from error

    def allows(self, origin: str, host: Host | None) -> bool:
        """Whether pages of another origin may use the server that they find at `host`, and read what it answers."""
        parsed = parse_origin(origin)
        if self._said_origins is None:
            # They and we are on the browser's own machine: it doesn't ask anybody where these names lead.
            is_page = parsed is not None and parsed.scheme in DEFAULT_PORTS and parsed.host.is_loopback
            return is_page and host is not None and host.is_loopback
        if parsed is None:
            return self.allows_all or (origin == "null" and "null" in self._said_origins)
        return self.allows_all or any(map(parsed.fits, self._origins))

    def note_unread(self, origin: str, site: str | None, host: Host | None) -> None:
        """A page of another origin is answered, but its browser will not let it read the answer."""
        if site not in _OURS and not _is_same(origin, host):
            self._tell("a page can't read our answer", "origin", origin, self._remedy(origin))

    def _is_named(self, origin: str) -> bool:
        """Whether the setting allows this one, and not all."""
        parsed = parse_origin(origin)
        return parsed is not None and any(parsed.fits(one) for one in self._origins if one.host.name != "*")

    def _remedy(self, origin: str | None) -> str:
        """The setting that would allow it, beside those that are allowed already."""
        wanted = origin if origin == "null" or _is_name(origin) else "*"
        return f"TIDELOG_CORS_ORIGINS={','.join([*(self._said_origins or ()), wanted or '*'])}"

    def _may_name(self, host: Host | None, server: tuple[str, int | None] | None) -> bool:
        if self._hosts is not None:
            return self._allows_all_hosts or (host is not None and any(map(host.fits, self._hosts)))
        if not self._is_local or server is None or not is_loopback_address(server[0]):
            return True
        return host is not None and host.is_loopback

    def _tell(self, what: str, header: str, said: str, remedy: str) -> None:
        if (header, said) not in self._told and len(self._told) < TOLD_MAX:
            self._told.add((header, said))
            logger.warning("%s, as its %s is %s: %s would allow it", what, header, shown(said), remedy)


def said_by(headers: Iterable[tuple[bytes, bytes]]) -> Said:
    """What these headers say."""
    host = origin = site = None
    is_handshake = False
    for name, value in headers:
        if name == b"host":
            host = value if host is None else host + b", " + value
        elif name == b"origin":
            origin = value if origin is None else origin + b", " + value
        elif name == b"sec-fetch-site":
            site = value if site is None else site + b", " + value
        elif (name == b"upgrade" or name == b"sec-websocket-key") and is_sign_of_one(name, value):
            is_handshake = True
    return Said(_text(host), _text(origin), _text(site), is_handshake)


def _text(value: bytes | None) -> str | None:
    if value is None:
        return None
    return value.decode("latin-1") if len(value) <= LENGTH_MAX else "(too long)"


def _is_same(origin: str, host: Host | None) -> bool:
    parsed = parse_origin(origin)
    return parsed is not None and host is not None and parsed.is_at(host)


def _is_name(origin: str | None) -> bool:
    """Whether it says where a page is from."""
    return origin is not None and parse_origin(origin) is not None


def _is_known_by_itself(scope: Scope) -> bool:
    """Whether a middleware of the application knows the user, and a browser has sent something that it may be by.

    A token may be there as well. Which of them it was isn't said, and a page could add one that isn't looked at.
    """
    said = cast("dict[str, Any]", scope)
    is_known = said.get("user") is not None or said.get("auth") is not None or bool(said.get("session"))
    return is_known and any(
        name == b"cookie" or (name == b"authorization" and not value.lower().startswith(b"bearer "))
        for name, value in scope["headers"]
    )
