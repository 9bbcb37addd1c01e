"""Requests and handshakes that are refused at the door: the client is told, and the access log."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, cast

from litestar.enums import ScopeType
from litestar.types import Receive, Scope, Send
from pydantic_core import to_json

from tidelog.errors import TidelogError
from tidelog.web.access import AccessLog
from tidelog.web.allowance import POLICY_VIOLATION
from tidelog.web.answer import Answer
from tidelog.web.failures import refused

# https://asgi.readthedocs.io/en/latest/extensions.html#websocket-denial-response
DENIAL = "websocket.http.response"


def answer_of(error: TidelogError) -> Answer:
    """What a refused request is answered."""
    failure = refused(error)
    body = to_json(failure.body())
    headers = {"content-type": "application/json", "content-length": str(len(body)), **failure.headers}
    return Answer(error.status, [(name.encode(), value.encode()) for name, value in headers.items()], body)


def last_words(error: TidelogError) -> bytes:
    """The same as it goes over a connection of HTTP/1.1 on which nothing was asked yet, and which ends with it."""
    answer = answer_of(error)
    head = b"".join(b"%b: %b\r\n" % header for header in (*answer.headers, (b"connection", b"close")))
    phrase = HTTPStatus(answer.status).phrase.encode()
    return b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (answer.status, phrase, head, answer.body)


class Refusals:
    """Answers them, with an access line for each if there is an access log."""

    def __init__(self, access_log: AccessLog | None) -> None:
        self._access_log = access_log

    async def refuse(self, scope: Scope, receive: Receive, send: Send, error: TidelogError) -> None:
        answer = answer_of(error)
        if scope["type"] == ScopeType.WEBSOCKET:
            await _refuse_socket(scope, send, answer, error.code)
            if self._access_log is not None:
                self._access_log.refused_socket(scope, error.status, error.code)
            return

        async def app(_scope: Any, _receive: Any, send: Send) -> None:
            await answer.send(send)

        if self._access_log is None:
            await answer.send(send)
        else:
            await self._access_log.serve(app, scope, receive, send)


async def _refuse_socket(scope: Scope, send: Send, answer: Answer, code: str) -> None:
    """Before it is accepted."""
    if DENIAL not in cast("dict[str, Any]", scope.get("extensions") or {}):
        # The server answers 403. Daphne is one; uvicorn (each of its protocols), Hypercorn and Granian can answer more.
        await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": code})
        return
    start: Any = {"type": "websocket.http.response.start", "status": answer.status, "headers": answer.headers}
    await send(start)
    body: Any = {"type": "websocket.http.response.body", "body": answer.body, "more_body": False}
    await send(body)
