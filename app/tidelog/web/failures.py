"""From an exception to an HTTP answer. All have one shape: {"error": {"code", "message", "details"?, "id"?}}.

What went wrong inside goes to the log, under an id that the answer carries; never into the answer.
"""

from __future__ import annotations

import logging
import secrets
import textwrap
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, cast

from litestar import MediaType, Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException
from litestar.types import ExceptionHandlersMap

from tidelog.errors import (
    AuthenticationUnavailableError,
    BodyInvalidError,
    ClientGoneError,
    CommitUnknownError,
    ServerFullError,
    ServerStoppingError,
    StepBusyError,
    StepTimedOutError,
    ThreadsStuckError,
    TidelogError,
    TooManyConnectionsError,
    UnauthorizedError,
    UpgradeRequiredError,
    UpgradeWithBodyError,
    Violation,
)
from tidelog.logs.lines import printable
from tidelog.logs.seldom import Seldom
from tidelog.store.failure import in_a_line, is_away, is_busy, is_conflict
from tidelog.web.handshake import VERSION

RETRY_CONFLICT_SECONDS = 1  # the other transaction is over by then
RETRY_BUSY_SECONDS = 5  # about what a lock is waited for
RETRY_DATABASE_SECONDS = 5  # about what a restart or a fail-over takes
SAID_LENGTH_MAX = 300  # of an error's text, in the message of its line; all of it is in the traceback
_AT_WORDS: dict[str, Any] = {"placeholder": " ...", "break_long_words": False, "break_on_hyphens": False}
PATH_LENGTH_MAX = 200  # of what is told of a path where nothing is

RETRY_AUTHENTICATION_SECONDS = 5
RETRY_STOPPING_SECONDS = 5  # about what a restart takes
RETRY_FULL_SECONDS = 5  # another process may have room at once, but everybody who is refused comes back then

_HEADERS = {
    UnauthorizedError.code: {"www-authenticate": "Bearer"},  # RFC 9110 15.5.2, RFC 6750 3
    AuthenticationUnavailableError.code: {"retry-after": str(RETRY_AUTHENTICATION_SECONDS)},
    ServerFullError.code: {"retry-after": str(RETRY_FULL_SECONDS)},
    TooManyConnectionsError.code: {"retry-after": str(RETRY_FULL_SECONDS)},
    ServerStoppingError.code: {"retry-after": str(RETRY_STOPPING_SECONDS)},
    UpgradeWithBodyError.code: {"connection": "close"},  # what follows is no request
    # RFC 9110 15.5.22, and RFC 6455 4.4 for the version
    UpgradeRequiredError.code: {
        "upgrade": "websocket",
        "connection": "upgrade",
        "sec-websocket-version": VERSION.decode(),
    },
}

logger = logging.getLogger(__name__)
_away = Seldom()  # all requests meet it, thousands a second


@dataclass(frozen=True, slots=True)
class Failure:
    """What the client is told."""

    status: int
    code: str
    message: str
    details: tuple[Violation, ...] = ()
    id: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.details:
            error["details"] = [{"path": violation.path, "message": violation.message} for violation in self.details]
        if self.id is not None:
            error["id"] = self.id
        return {"error": error}


def refused(error: TidelogError) -> Failure:
    """What to tell about what is the client's to know."""
    retry_seconds = getattr(error, "retry_seconds", None)
    headers = {} if retry_seconds is None else {"retry-after": str(retry_seconds)}
    return Failure(error.status, error.code, str(error), headers=_HEADERS.get(error.code, {}) | headers)


def failure_of(error: BaseException, where: str) -> Failure:
    """What to tell about `error`, which happened in `where`; logs what the client isn't told."""
    if isinstance(error, BodyInvalidError):
        return Failure(error.status, error.code, str(error), error.violations)
    if isinstance(error, ClientGoneError):
        logger.info("%s: %s", where, error)
        return Failure(error.status, error.code, str(error))
    if isinstance(error, AuthenticationUnavailableError):  # whose cause is in the log
        return refused(error)
    if isinstance(error, TidelogError) and error.status < 500:
        return refused(error)
    if isinstance(error, HTTPException) and error.status_code < 500:
        return _refusal(error)
    if isinstance(error, CommitUnknownError):
        # No Retry-After: done twice may be worse than not at all.
        return _internal(error, where, "the step was broken off, and may have been stored; look before you repeat it")
    if isinstance(error, StepTimedOutError):
        return _internal(error, where, "the step took longer than it may, and was broken off")
    if isinstance(error, ServerStoppingError):
        logger.warning("%s: %s", where, error)
        return refused(error)
    if is_conflict(error):
        logger.warning("%s: lost against another transaction: %s", where, error)
        return Failure(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "transaction_conflict",
            "another transaction was in the way; nothing was stored, try again",
            headers={"retry-after": str(RETRY_CONFLICT_SECONDS)},
        )
    if is_busy(error):
        logger.warning("%s: %s", where, error)
        return Failure(
            HTTPStatus.SERVICE_UNAVAILABLE,
            StepBusyError.code,
            "too many runs of this step are at work, or wait for each other; nothing was stored, try again",
            headers={"retry-after": str(RETRY_BUSY_SECONDS)},
        )
    if is_away(error):
        if _away.is_news(type(error)):
            logger.error("%s: the database is not available: %s (told once a minute)", where, error)
        return Failure(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "database_unavailable",
            "the database is not available; nothing was stored, try again",
            headers={"retry-after": str(RETRY_DATABASE_SECONDS)},
        )
    if isinstance(error, ThreadsStuckError):
        return _internal(error, where, "the server has no thread left for this step; its log has the cause")
    return _internal(error, where, "the server failed; its log has the cause, under this id")


def _internal(error: BaseException, where: str, message: str) -> Failure:
    id = secrets.token_hex(8)
    logger.error("%s failed, error id %s: %s", where, id, _in_short(error), exc_info=error, extra={"error_id": id})
    if isinstance(error, TidelogError):
        return Failure(error.status, error.code, message, id=id)
    return Failure(HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", message, id=id)


def _in_short(error: BaseException) -> str:
    """Its type, and what it says, on one line.

    It ends between two words: a secret that is cut is not known for one, and would be in the log.
    """
    said = f"{type(error).__name__}: {in_a_line(error)}".removesuffix(": ")[: 2 * SAID_LENGTH_MAX]
    return printable(textwrap.shorten(said, SAID_LENGTH_MAX, **_AT_WORDS))


def _refusal(error: HTTPException) -> Failure:
    """An error that Litestar, or a step's author by Litestar's exceptions, meant the client to see."""
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    if "GET" in headers.get("allow", "") and "HEAD" not in headers["allow"]:
        headers["allow"] += ", HEAD"  # of the server's own routes, see paths.py
    if error.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return Failure(error.status_code, "body_too_large", error.detail, headers=headers)
    try:
        code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_").replace("-", "_")
    except ValueError:
        code = f"status_{error.status_code}"
    return Failure(error.status_code, code, error.detail, headers=headers)


def _where_nothing_is(request: Request[Any, Any, Any], error: Exception, failure: Failure) -> Failure:
    """With method and path, where nobody has said anything else: the two are wrong more often than they seem to be."""
    if failure.message != HTTPStatus(failure.status).phrase:
        return failure
    # As it was sent: the scope's own path is where steps are hidden, see paths.py.
    raw = request.scope.get("raw_path") or request.scope["path"].encode()
    path = printable(raw.decode("latin-1"))[:PATH_LENGTH_MAX]
    if isinstance(error, NotFoundException):
        message = f"nothing is served at {request.method} {path}; /schema/openapi.json has all steps"
    elif isinstance(error, MethodNotAllowedException):
        message = f"{path} does not take {request.method}; it takes {failure.headers.get('allow', 'other methods')}"
    else:
        return failure
    return replace(failure, message=message)


def _answer(request: Request[Any, Any, Any], error: Exception) -> Response[dict[str, Any]]:
    failure = failure_of(error, f"{request.method} {request.url.path}")
    if isinstance(error, HTTPException):
        failure = _where_nothing_is(request, error, failure)
    return Response(failure.body(), status_code=failure.status, headers=failure.headers, media_type=MediaType.JSON)


exception_handlers: ExceptionHandlersMap = cast("ExceptionHandlersMap", {HTTPException: _answer, Exception: _answer})
