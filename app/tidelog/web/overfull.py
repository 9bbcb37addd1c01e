"""Connections that are too many, for the process or for their client: each learns why; health checks are answered.

Knows connections of the server, and nothing of what is asked on them: the application answers (pages_app.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping
from typing import Any, Protocol

from tidelog.descriptors import HELD_MAX, Descriptors, descriptors
from tidelog.errors import ServerFullError, TidelogError
from tidelog.settings import Settings
from tidelog.web.addresses import Addresses, client_address
from tidelog.web.crowd import Crowd, Place

REFUSAL = "tidelog.refused"  # in the scope: the TidelogError for which the server will have a request refused
REQUEST_SECONDS = 2.0  # for a request to arrive: it mostly comes with the connection


class Held(Protocol):
    """A connection without a request so far."""

    def refuse_at_once(self) -> None:
        """Tell it why, and close it."""


class Overfull:
    """Connections of this process: as what they count, and those too many that say nothing, the oldest first."""

    def __init__(self, descriptors: Descriptors) -> None:
        self._descriptors = descriptors
        self._held: dict[Held, asyncio.TimerHandle] = {}
        self._crowd: Crowd | None = None  # nobody is counted
        self._addresses: Addresses | None = None
        self._places: dict[asyncio.BaseTransport, Place | TidelogError] = {}

    def prepare(self, settings: Settings) -> None:
        """Count connections from here on, if a setting bounds them."""
        if settings.connections_max is not None or settings.connections_per_address_max is not None:
            self._crowd, self._addresses = Crowd.of(settings), Addresses(settings)

    def admit(self, transport: asyncio.BaseTransport) -> TidelogError | None:
        """Count a new connection; answers why it has to be refused, if it has to. It must `leave` when it ends."""
        socket = transport.get_extra_info("socket")
        if socket is not None and not self._descriptors.has_room_for(socket.fileno()):
            self._descriptors.note_refusal()
            self._places[transport] = refusal = ServerFullError()
            return refusal
        if self._crowd is None or self._addresses is None:
            return None
        peer = transport.get_extra_info("peername")
        address = client_address(peer[0]) if isinstance(peer, tuple) else None
        try:
            # Who is behind a trusted proxy is not known before there is a request.
            self._places[transport] = self._crowd.enter(None if self._addresses.trusts(address) else address)
        except TidelogError as error:
            self._places[transport] = error
            return error
        return None

    def refusal_of(self, transport: asyncio.BaseTransport) -> TidelogError | None:
        """Why this one has to be refused."""
        place = self._places.get(transport)
        return place if isinstance(place, TidelogError) else None

    def leave(self, transport: asyncio.BaseTransport) -> None:
        """It has ended."""
        place = self._places.pop(transport, None)
        if isinstance(place, Place) and self._crowd is not None:
            self._crowd.leave(place)

    def hold(self, connection: Held, loop: asyncio.AbstractEventLoop) -> None:
        """Give one too many some time for its request, or as long as others need no more places than there are."""
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

    def __init__(self, app: Any, refusal: TidelogError, on_request: Callable[[], None]) -> None:
        self._app = app
        self._refusal = refusal
        self._on_request = on_request

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        self._on_request()
        scope[REFUSAL] = self._refusal
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_last(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        await self._app(scope, receive, send_last)
