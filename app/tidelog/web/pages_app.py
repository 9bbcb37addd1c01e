"""The server as delivered, for those web pages that may use it: what page_rules.py says is asked here, of each request.

A refusal is answered so that the page can read it where it may; preflights of CORS are answered, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, cast

from litestar.enums import ScopeType
from litestar.types import HTTPScope, LifeSpanReceive, LifeSpanScope, LifeSpanSend, Message, Receive, Scope, Send

from tidelog.errors import ExposedError, HostForbiddenError, OriginForbiddenError, TidelogError
from tidelog.model.trigger import HttpTrigger
from tidelog.web.access import UNLOGGED, AccessLog
from tidelog.web.answer import Answer, RawHeaders
from tidelog.web.exposure import Exposure
from tidelog.web.gate import SocketGate, SocketsAnywhere
from tidelog.web.handshake import upgrade_required
from tidelog.web.overfull import REFUSAL
from tidelog.web.page_rules import PageRules, said_by
from tidelog.web.refusal import Refusals
from tidelog.web.startup import with_refusal

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})  # which change nothing (RFC 9110 9.2.1)
PREFLIGHT_SECONDS = 600  # for which browsers need not ask again

_METHODS = b"DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
_VISIBLE = re.compile(rb"[\x20-\x7e]*")


class PagesApp(SocketsAnywhere):
    """The application, for those pages that may use it."""

    def __init__(
        self,
        rules: PageRules,
        gate: SocketGate,
        triggers: Iterable[HttpTrigger],
        access_log: AccessLog | None = None,
        exposure: Exposure | None = None,
        **options: Any,
    ) -> None:
        super().__init__(gate, triggers, access_log, **options)
        self._rules = rules
        self._exposure = exposure
        self._refusals = Refusals(access_log)

    async def __call__(
        self, scope: Scope | LifeSpanScope, receive: Receive | LifeSpanReceive, send: Send | LifeSpanSend
    ) -> None:
        if scope["type"] == "lifespan":
            await super().__call__(scope, receive, with_refusal(cast("LifeSpanSend", send), self))
            return
        said_host, origin, site, is_handshake = said_by(scope["headers"])
        is_socket = scope["type"] == ScopeType.WEBSOCKET
        wanted = None if is_socket or origin is None else _preflight(cast("HTTPScope", scope))
        refusal: TidelogError | None = None
        host = None
        try:
            host = self._rules.check_host(said_host, scope.get("server"))
            if self._exposure is not None and (is_socket or scope["path"] not in UNLOGGED):
                self._exposure.check(scope)
            if is_socket or wanted is not None or cast("HTTPScope", scope)["method"] not in SAFE_METHODS:
                self._rules.check_origin(origin, site, host)
            if REFUSAL in scope and (is_socket or scope["path"] not in UNLOGGED):
                refusal = cast("dict[str, Any]", scope)[REFUSAL]
            elif is_handshake and not is_socket and cast("HTTPScope", scope)["method"] == "GET":
                refusal = upgrade_required(scope["headers"])
        except (ExposedError, HostForbiddenError, OriginForbiddenError) as error:
            await self._refusals.refuse(scope, cast("Receive", receive), cast("Send", send), error)
            return
        if origin is not None and not is_socket:
            if self._rules.allows(origin, host):
                sharing = self._sharing(origin)
                if wanted is not None and refusal is None:
                    await Answer(204, [*sharing, *wanted]).send(send)
                    return
                send = _with_headers(cast("Send", send), sharing)
            else:
                self._rules.note_unread(origin, site, host)
        if refusal is not None:
            await self._refusals.refuse(scope, cast("Receive", receive), cast("Send", send), refusal)
            return
        if is_socket or scope["path"] in UNLOGGED:
            await super().__call__(scope, receive, send)
            return
        try:
            member = self._gate.count(scope)
        except TidelogError as error:
            await self._refusals.refuse(scope, cast("Receive", receive), cast("Send", send), error)
            return
        try:
            await super().__call__(scope, receive, send)
        finally:
            if member is not None:
                member.leave()

    def _sharing(self, origin: str) -> RawHeaders:
        """What tells the browser that the page may read the answer: https://fetch.spec.whatwg.org/#http-responses"""
        if self._rules.allows_all:
            allowed: RawHeaders = [(b"access-control-allow-origin", b"*")]
        else:
            allowed = [(b"access-control-allow-origin", origin.encode("latin-1")), (b"vary", b"Origin")]
        return [*allowed, (b"access-control-expose-headers", b"*")]


def _preflight(scope: HTTPScope) -> RawHeaders | None:
    """The answer's headers to a browser that asks whether a page may send what it wants to; None if it doesn't ask."""
    if scope["method"] != "OPTIONS":
        return None
    asked = {name: value for name, value in scope["headers"] if name.startswith(b"access-control-request-")}
    if b"access-control-request-method" not in asked:
        return None
    headers = asked.get(b"access-control-request-headers", b"")
    answer = [(b"access-control-allow-methods", _METHODS), (b"access-control-max-age", b"%d" % PREFLIGHT_SECONDS)]
    if headers and _VISIBLE.fullmatch(headers):
        answer.append((b"access-control-allow-headers", headers))
    return answer


def _with_headers(send: Send, headers: RawHeaders) -> Send:
    """An answer with these, too; where a step has given one of them itself, its own stays. Vary is a list."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = list(message.get("headers", ()))
            names = {name.lower() for name, _ in given} - {b"vary"}
            message = {**message, "headers": [*given, *(one for one in headers if one[0] not in names)]}
        await send(message)

    return send_with_headers
