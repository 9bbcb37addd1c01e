"""Finds out who sends a request, in one place for all ways in. What fails refuses, and never opens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from tidelog.access.authors import AuthorFunctions
from tidelog.access.caller import Caller
from tidelog.access.causes import Causes
from tidelog.errors import AuthenticationUnavailableError, UnauthorizedError
from tidelog.model.rule import Function

TOKEN = "token"  # noqa: S105 - the key of a request's
TOKEN_LENGTH_MAX = 8192  # a server's heads are not much longer

Request = Mapping[str, Any]  # headers, path, query, address and token; made anew for each call
Authenticate = Callable[[Request], Awaitable[Any]]


def by_function(function: Function, functions: AuthorFunctions) -> Authenticate:
    """Have an author's function answer."""

    async def authenticate(request: Request) -> Any:
        return await functions.ask(function, request)

    return authenticate


class Authentication:
    """Asks one function, an author's or that of tokens."""

    def __init__(
        self, authenticate: Authenticate, causes: Causes, refusals: tuple[type[Exception], ...] = (PermissionError,)
    ) -> None:
        """`refusals` are what else, beside UnauthorizedError, it raises for a request that it refuses."""
        self._authenticate = authenticate
        self._causes = causes
        self._refusals = refusals

    async def caller_of(self, request: Request) -> Caller:
        """Who sends it. Raises UnauthorizedError, and AuthenticationUnavailableError where that can't be found out."""
        token = request[TOKEN]
        if token is not None and len(token) > TOKEN_LENGTH_MAX:
            raise UnauthorizedError(f"a token has up to {TOKEN_LENGTH_MAX} characters")
        try:
            said = await self._authenticate(request)
            return said if isinstance(said, Caller) else Caller.of(said)
        except UnauthorizedError:
            raise
        except self._refusals:
            raise UnauthorizedError("the authentication refused this request") from None
        except Exception as error:
            self._causes.tell("authenticate", error, () if token is None else (token,))
            raise AuthenticationUnavailableError from None
