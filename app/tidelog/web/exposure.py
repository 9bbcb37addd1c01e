"""Who reaches this server, as far as it can be told: what is open on a developer's machine is not open elsewhere."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address

from litestar.types import Scope

from tidelog.access.decisions import Mode
from tidelog.errors import ExposedError
from tidelog.settings import Settings
from tidelog.web.hosts import NAMES_KEPT, parse_host

REMEDY = (
    "say who may: a stream_auth.py among the steps or TIDELOG_JWT_... for an authentication, or TIDELOG_ACCESS=open to "
    "let in everybody"
)


class Exposure:
    """By the settings, and by the address of ours that a request came to."""

    def __init__(self, settings: Settings, *, has_authentication: bool) -> None:
        self._said = settings.access
        self._is_local = is_local(settings)
        self._is_decided = has_authentication or settings.access == "open"

    def mode_of(self, scope: Scope) -> Mode:
        """Who may have a stream without a rule, of those who come so."""
        if self._said is not None:
            return self._said
        return "open" if self._is_local and _is_local_address(scope.get("server")) else "declared"

    def check(self, scope: Scope) -> None:
        """Raise ExposedError if others can send this, and nobody has said who may."""
        if not self._is_decided and not (self._is_local and _is_local_address(scope.get("server"))):
            raise ExposedError(f"others than this machine reach this server, and nothing says who may: {REMEDY}")


def check_exposure(settings: Settings, *, has_authentication: bool) -> None:
    """The same at the start, as far as the settings tell."""
    if not has_authentication and settings.access != "open" and not is_local(settings):
        names = settings.allowed_hosts or (settings.host,)
        raise ExposedError(f"it is to serve {', '.join(names)}, which others reach, and nothing says who may: {REMEDY}")


def is_local(settings: Settings) -> bool:
    """Whether only this machine is meant to reach it. Behind a proxy TIDELOG_ALLOWED_HOSTS is set."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    names = [host, *(settings.allowed_hosts or ())]
    return all((parsed := parse_host(name)) is not None and parsed.is_loopback for name in names)


def _is_local_address(server: tuple[str, int | None] | None) -> bool:
    return server is not None and _is_local_name(server[0])


@lru_cache(NAMES_KEPT)
def _is_local_name(name: str) -> bool:
    """Of this machine; not the path of a socket, behind which there is a proxy. A test's transport says any name."""
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return "/" not in name
