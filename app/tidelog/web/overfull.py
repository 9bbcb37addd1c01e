"""Connections that came when the process had no room for more: each learns why; health checks are answered.

Knows connections of the server, and nothing of what is asked on them: the application answers (cross_origin.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping
from typing import Any, Protocol

from tidelog.descriptors import HELD_MAX, Descriptors, descriptors
from tidelog.errors import ServerFullError

REFUSAL = "tidelog.refused"  # in the scope: the TidelogError for which the server will have a request refused
REQUEST_SECONDS = 2.0  # for a request to arrive: it mostly comes with the connection


class Held(Protocol):
    """A connection without a request so far."""

    def refuse_at_once(self) -> None:
        """Tell it why, and close it."""


class Overfull:
    """Those of this process that say nothing, the oldest first."""

    def __init__(self, descriptors: Descriptors) -> None:
        self._descriptors = descriptors
        self._held: dict[Held, asyncio.TimerHandle] = {}

    def has_room_for(self, transport: asyncio.BaseTransport) -> bool:
        """Whether this connection was accepted while there was room."""
        socket = transport.get_extra_info("socket")
        return socket is None or self._descriptors.has_room_for(socket.fileno())

    def hold(self, connection: Held, loop: asyncio.AbstractEventLoop) -> None:
        """Give it some time for its request, or as long as others need no more places than there are."""
        self._descriptors.note_refusal()
        if len(self._held) >= HELD_MAX:
            self._refuse(next(iter(self._held)))
        self._held[connection] = loop.call_later(REQUEST_SECONDS, self._refuse, connection)

    def drop(self, connection: Held) -> None:
        """Its request is here, or it has ended."""
        timer = self._held.pop(connection, None)
        if timer is not None:
            timer.cancel()

    def _refuse(self, connection: Held) -> None:
        self.drop(connection)
        connection.refuse_at_once()


overfull = Overfull(descriptors)


class OverfullApp:
    """The application for such a connection, which ends after one request."""

    def __init__(self, app: Any, on_request: Callable[[], None]) -> None:
        self._app = app
        self._on_request = on_request

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        self._on_request()
        scope[REFUSAL] = ServerFullError()
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_last(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        await self._app(scope, receive, send_last)
