"""Who sends a request: what the authentication makes of it, or what an application's own middleware found out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from litestar.types import Scope

from tidelog.access.authentication import TOKEN, Authentication, Request
from tidelog.access.caller import ANYBODY, Caller, part_of
from tidelog.errors import TokenExpiredError, UnauthorizedError
from tidelog.settings import Settings
from tidelog.web.addresses import Addresses
from tidelog.web.attempts import Attempts
from tidelog.web.crowd import Place, client_of
from tidelog.web.request import parse_query, read_headers

AUTHORIZATION = "Authorization"  # the subprotocol behind which Motia's clients send a token
QUERY_PARAMETER = "authToken"

_BEARER = re.compile(r"bearer +(.*)", re.IGNORECASE | re.ASCII)
# Of a bearer's (RFC 6750 2.1) and a subprotocol's (RFC 9110 5.6.2) all that may be in one.
_TOKEN = re.compile(r"[!#$%&'*+\-./0-9=A-Z^_`a-z|~]+", re.ASCII)


class Callers:
    """Finds out who sends requests of any kind."""

    def __init__(
        self,
        authentication: Authentication | None = None,
        addresses: Addresses | None = None,
        check_ambient: Callable[[Iterable[tuple[bytes, bytes]]], None] = lambda _: None,
        attempts: Attempts | None = None,
    ) -> None:
        """Without an authentication it is the application's middleware that says.

        `check_ambient` raises if a page may not act as the user that its browser makes known by itself.
        """
        self._authentication = authentication
        self._addresses = addresses or Addresses(Settings())
        self._check_ambient = check_ambient
        self._attempts = attempts or Attempts(Settings().wrong_tokens_per_minute_max)

    @property
    def has_authentication(self) -> bool:
        return self._authentication is not None

    async def of(self, scope: Scope) -> Caller:
        """Raises UnauthorizedError, AuthenticationUnavailableError, TooManyAttemptsError, OriginForbiddenError, and
        QueryInvalidError.
        """
        if self._authentication is None:
            return _of_application(scope)
        tokens = _tokens_of(scope)
        caller = await self._ask(self._authentication, self._request_of(scope, tokens))
        if caller.is_known and not tokens:
            # By a cookie, or what else a browser sends by itself: any page could act as its user.
            self._check_ambient(scope["headers"])
        return caller

    def client_of(self, scope: Scope, caller: Caller) -> Place | None:
        """Whose share of what there is is used: that of a user, or of an address; None: nobody's but the request's."""
        return client_of(Place(self._addresses.of(scope), caller.subject))

    async def renewed(self, scope: Scope, token: str) -> Caller:
        """As if the request had come with this token. Raises as `of`."""
        if self._authentication is None:
            raise UnauthorizedError("this server takes no tokens")
        return await self._ask(self._authentication, self._request_of(scope, [token]))

    async def _ask(self, authentication: Authentication, request: Request) -> Caller:
        """Unless too many wrong tokens have come from there. What an author reads of other headers isn't counted."""
        token, address = request[TOKEN], request["address"]
        if token is None:
            return await authentication.caller_of(request)
        self._attempts.check(address, token)
        try:
            caller = await authentication.caller_of(request)
        except UnauthorizedError as error:
            if not isinstance(error, TokenExpiredError):
                self._attempts.note_wrong(address, token)
            raise
        if caller.is_known:
            self._attempts.note_right(address, token)
        return caller

    def _request_of(self, scope: Scope, tokens: Iterable[str]) -> dict[str, Any]:
        """What `authenticate` gets."""
        token: str | None = None
        for one in tokens:
            if token not in (None, one):
                raise UnauthorizedError("there are two different tokens: it can't be both")
            if not _TOKEN.fullmatch(one):
                raise UnauthorizedError("the token has a character that tokens don't have")
            token = one
        return {
            "headers": read_headers(scope["headers"]),
            "path": scope["path"],
            "query": parse_query(scope["query_string"]),
            "address": self._addresses.of(scope),
            TOKEN: token,
        }


@dataclass(frozen=True, slots=True)
class ApplicationAuth:
    """What a Litestar application found out: `connection.user` and `connection.auth`."""

    user: Any
    auth: Any

    @property
    def subject(self) -> str | None:
        """The user's name, or its id."""
        if isinstance(self.user, str | int):
            return str(self.user)
        names = ((self.user, "subject"), (self.auth, "subject"), (self.auth, "sub"), (self.user, "id"))
        return next((str(found) for of, name in names if (found := part_of(of, name)) is not None), None)

    @property
    def expires_at(self) -> datetime | None:
        """When the token of Litestar's JWT middleware ends."""
        expires_at = part_of(self.auth, "exp")
        return expires_at if isinstance(expires_at, datetime) and expires_at.tzinfo is not None else None


def _of_application(scope: Scope) -> Caller:
    found = cast("dict[str, Any]", scope)
    user, auth = found.get("user"), found.get("auth")
    return ANYBODY if user is None and auth is None else Caller.of(ApplicationAuth(user, auth))


def _tokens_of(scope: Scope) -> list[str]:
    """All that the request has, wherever."""
    tokens = []
    for header in (value for name, value in scope["headers"] if name.lower() == b"authorization"):
        bearer = _BEARER.fullmatch(header.decode("latin-1").strip())
        if bearer is not None:
            tokens.append(bearer[1])
    offered = list(cast("dict[str, Any]", scope).get("subprotocols") or ())
    if AUTHORIZATION in offered:
        tokens += offered[offered.index(AUTHORIZATION) + 1 :][:1]
    given = parse_query(scope["query_string"]).get(QUERY_PARAMETER) if scope["query_string"] else None
    if given is not None:
        tokens += [given] if isinstance(given, str) else given
    return tokens
