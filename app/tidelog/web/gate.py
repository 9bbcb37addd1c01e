"""The way in for WebSockets: at which paths, who connects, whether there is room, and in which dialect."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from typing import Any, cast

from litestar import WebSocket, websocket
from litestar.enums import ScopeType
from litestar.handlers import WebsocketRouteHandler
from litestar.types import Guard, HTTPScope, LifeSpanReceive, LifeSpanScope, LifeSpanSend, Receive, Scope, Send

from tidelog.access.caller import Caller
from tidelog.access.recheck import Hint
from tidelog.errors import TidelogError
from tidelog.feed.interfaces import Subscriptions
from tidelog.model.trigger import HttpTrigger
from tidelog.settings import Settings
from tidelog.web.access import AccessLog
from tidelog.web.addresses import Addresses, peer_of
from tidelog.web.admission import Admission
from tidelog.web.callers import AUTHORIZATION
from tidelog.web.connection import Shared, SocketConnection
from tidelog.web.crowd import Crowd, Joins, Member
from tidelog.web.dialects.tidelog import SUBPROTOCOL
from tidelog.web.motia_connection import MotiaConnection
from tidelog.web.paths import StepsApp
from tidelog.web.reads.waiting import Waiting
from tidelog.web.refusal import Refusals
from tidelog.web.tidelog_connection import TidelogConnection
from tidelog.web.unknown_streams import UnknownStreams


class SocketsAnywhere(StepsApp):
    """An application that takes WebSocket connections at every path, as clients add none to the address they get.

    They go to `gate` at once. Litestar's router doesn't try a catch-all route where a longer one has begun to
    match (`/chat/x` beside `/chat/:room/messages`), and what it keeps for each connection would be a third of
    all that an idle one costs.
    """

    def __init__(
        self, gate: SocketGate, triggers: Iterable[HttpTrigger], access_log: AccessLog | None = None, **options: Any
    ) -> None:
        super().__init__(triggers, **options)
        self._gate = gate
        self._access_log = access_log

    async def __call__(
        self, scope: Scope | LifeSpanScope, receive: Receive | LifeSpanReceive, send: Send | LifeSpanSend
    ) -> None:
        if scope["type"] == ScopeType.WEBSOCKET:
            await self._gate.serve(cast("Scope", scope), cast("Receive", receive), cast("Send", send))
        elif scope["type"] == ScopeType.HTTP and self._access_log is not None:
            request = cast("HTTPScope", scope)
            await self._access_log.serve(super().__call__, request, cast("Receive", receive), cast("Send", send))
        else:
            await super().__call__(scope, receive, send)


class SocketGate:
    """Lets connections in: who asks, whether there is room for one more, and in which dialect it is served."""

    def __init__(
        self,
        feed: Subscriptions,
        streams: Collection[str],
        settings: Settings,
        access_log: AccessLog | None = None,
        admission: Admission | None = None,
        waiting: Waiting | None = None,
    ) -> None:
        """Without `admission` everybody may have the streams; without `waiting` nobody can wait for a transaction."""
        self._access_log = access_log
        self._refusals = Refusals(access_log)
        self._admission = admission or Admission.of_all(streams)
        self._shared = Shared(feed, self._admission, settings, UnknownStreams(streams), Joins(settings), waiting)
        self._addresses = Addresses(settings)
        self._crowd = Crowd.of(settings)
        self._counts_requests = bool(settings.trusted_proxies) and settings.connections_per_address_max is not None

    def serve_from(self, feed: Subscriptions) -> None:
        """From here on connections are served by this feed: the application has been started again."""
        self._shared.feed = feed

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection until it ends."""
        offered = cast("Collection[str]", scope.get("subprotocols") or ())
        connect: type[SocketConnection] = MotiaConnection
        accepted = None
        if SUBPROTOCOL in offered:
            connect = TidelogConnection
            accepted = SUBPROTOCOL
        elif AUTHORIZATION in offered:
            # Motia's clients send a token as `Authorization, <token>`, and fail unless the first is selected.
            accepted = AUTHORIZATION
        if (await receive())["type"] != "websocket.connect":
            return
        member = None
        try:
            try:
                member = Member(self._crowd, self._addresses.of(scope))  # before anybody is asked, which costs more
                caller = await self._admission.callers.of(scope)
                member.identify(caller.subject)
            except TidelogError as error:
                await self._refusals.refuse(scope, receive, send, error)
                return
            await self._serve(connect, accepted, caller, member, scope, receive, send)
        finally:
            if member is not None:
                member.leave()

    def count(self, scope: Scope) -> Member | None:
        """Count a request under way as its address's, if its connection was not: it is a trusted proxy's.

        Raises TooManyConnectionsError and ServerFullError.
        """
        if not self._counts_requests or not self._addresses.trusts(peer_of(scope)):
            return None
        return Member(self._crowd, self._addresses.of(scope))

    async def _serve(
        self,
        connect: type[SocketConnection],
        accepted: str | None,
        caller: Caller,
        member: Member,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        await send({"type": "websocket.accept", "subprotocol": accepted, "headers": []})
        connection = connect(scope, receive, send, self._shared, caller, member)
        if self._access_log is None:
            await connection.serve()
        else:
            with self._access_log.socket(scope, connect.dialect_name, connection):
                await connection.serve()

    async def ask_again(self, hints: Collection[Hint]) -> None:
        """Ask anew for the subscriptions that these are about; what is denied now ends. Returns when all is asked."""
        rounds = [done for connection in self._shared.asked if (done := connection.ask_again(hints)) is not None]
        if rounds:
            await asyncio.wait(rounds)


def socket_route(path: str, gate: SocketGate, guard: Guard) -> WebsocketRouteHandler:
    """A route for clients, for an application in which they are not at every path.

    The application's guards are asked, as of any route, and then `guard`.
    """

    @websocket(path, guards=[guard])
    async def tidelog_socket(socket: WebSocket[Any, Any, Any]) -> None:
        await gate.serve(socket.scope, socket.receive, socket.send)

    return tidelog_socket
