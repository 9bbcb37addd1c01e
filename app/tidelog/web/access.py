"""Access lines: one for each answered request and each refused WebSocket, two for each that is opened.

They have no query strings and headers, which have tokens.

Not for health checks, which come every few seconds from several sides and say nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from time import perf_counter, time
from typing import Any, Protocol, cast

from litestar.types import HTTPScope, Message, Receive, Scope, Send

from tidelog.logs.access import Access, AccessRecord, access_logger
from tidelog.logs.handler import LineHandler
from tidelog.logs.lines import printable
from tidelog.logs.redaction import Redaction
from tidelog.logs.request import current_request
from tidelog.web.request import read_headers, trace_id_of

PATH_LENGTH_MAX = 1024  # of what is shown

UNLOGGED = frozenset({"/health/live", "/health/ready", "/health/live/", "/health/ready/"})
_redaction = Redaction()  # for paths; what is known to be secret is no part of one

Application = Callable[[Any, Any, Any], Awaitable[None]]


class LoggedSocket(Protocol):
    """What is told of a WebSocket when it has ended."""

    close_code: int

    @property
    def subscription_count(self) -> int: ...


class AccessLog:
    """Writes them, unless the logger is silenced: straight to `handler`, or else by the logger."""

    def __init__(self, handler: LineHandler | None) -> None:
        self._handler = handler

    async def serve(self, app: Application, scope: HTTPScope, receive: Receive, send: Send) -> None:
        """Have `app` serve the request, and log what it answered."""
        if scope["path"] in UNLOGGED or not access_logger.isEnabledFor(logging.INFO):
            await app(scope, receive, send)
            return
        began = perf_counter()
        sent = _Sent(send)
        current_request.set(None)
        try:
            await app(scope, receive, sent)
        finally:
            # By the runner of the step, if one ran: in this task.
            step, trace_id = current_request.get() or (None, trace_id_of(read_headers(scope["headers"])))
            duration_ms = (perf_counter() - began) * 1000
            access = Access(
                time(), scope["method"], _path(scope), sent.status, duration_ms, sent.size_bytes, step, trace_id
            )
            if self._handler is not None:
                self._handler.access(access)
            else:
                access_logger.handle(AccessRecord(access))

    @contextmanager
    def socket(self, scope: Scope, dialect: str, socket: LoggedSocket) -> Iterator[None]:
        """Log a WebSocket's beginning, and its end."""
        about: dict[str, object] = {
            "trace_id": trace_id_of(read_headers(scope["headers"])),
            "path": _path(scope),
            "dialect": dialect,
        }
        began = perf_counter()
        access_logger.info("socket opened", extra=about)
        try:
            yield
        finally:
            duration_ms = round((perf_counter() - began) * 1000, 3)
            about |= {"code": socket.close_code, "subscriptions": socket.subscription_count}
            access_logger.info("socket closed", extra={**about, "duration_ms": duration_ms})

    def refused_socket(self, scope: Scope, status: int, error: str) -> None:
        """Log a WebSocket that was not opened."""
        about = {"trace_id": trace_id_of(read_headers(scope["headers"])), "path": _path(scope)}
        access_logger.info("socket refused", extra={**about, "status": status, "error": error})


class _Sent:
    """Sends, and notes what."""

    __slots__ = ("_send", "size_bytes", "status")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status: int | None = None
        self.size_bytes = 0

    def __call__(self, message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.body":
            self.size_bytes += len(message.get("body", b""))
        elif message["type"] == "http.response.start":
            self.status = message["status"]
        return self._send(message)


def _path(scope: Scope) -> str:
    """As it was sent: in ASCII, with escapes; some servers have it only decoded."""
    raw = cast("bytes | None", scope.get("raw_path"))
    path = printable((raw.decode("latin-1") if raw else scope["path"])[:PATH_LENGTH_MAX])
    return _redaction.text(path) if "=" in path or "@" in path or ":" in path else path
