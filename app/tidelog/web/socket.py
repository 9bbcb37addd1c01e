"""The WebSocket endpoint: who connects, in which dialect, and what they ask for."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Any, cast

from litestar import WebSocket, websocket
from litestar.enums import ScopeType
from litestar.handlers import WebsocketRouteHandler
from litestar.types import Guard, HTTPScope, LifeSpanReceive, LifeSpanScope, LifeSpanSend, Receive, Scope, Send

from tidelog.access.caller import Caller
from tidelog.access.decisions import Mode
from tidelog.access.recheck import ALL, Hint
from tidelog.errors import (
    MessageInvalidError,
    SubscriptionUnavailableError,
    TidelogError,
    TooManyJoinsError,
    UnauthorizedError,
)
from tidelog.feed.draining import FellBehindError
from tidelog.feed.interfaces import Subscriptions
from tidelog.feed.messages import Messages
from tidelog.feed.subscription import Dialect, PositionSubscription, Subscription, SyncSubscription
from tidelog.model.change import Topic
from tidelog.model.trigger import HttpTrigger
from tidelog.settings import Settings
from tidelog.web.access import AccessLog
from tidelog.web.addresses import Addresses
from tidelog.web.admission import Admission
from tidelog.web.allowance import POLICY_VIOLATION, Allowance, floods
from tidelog.web.callers import AUTHORIZATION
from tidelog.web.crowd import Crowd, Joins, Place, seconds_until_next
from tidelog.web.dialects import motia, tidelog
from tidelog.web.entrance import Entrance
from tidelog.web.expiry import Expiry
from tidelog.web.outlet import open_outlet
from tidelog.web.paths import StepsApp
from tidelog.web.refusal import Refusals
from tidelog.web.unknown_streams import UnknownStreams

# The code that Motia's clients know for a join that isn't allowed; an unknown stream answers the same, so
# that nobody learns which streams exist by asking.
ACCESS_DENIED = ("STREAM_ACCESS_DENIED", "Access denied")
TRY_AGAIN_LATER = 1013  # RFC 6455's registry: the client fell too far behind; it may come back and go on
INTERNAL_ERROR = 1011
UNAUTHORIZED = 4401  # of ours: the authentication has ended
# Never sent; these two say that no code was received, and that the connection broke.
NO_STATUS_RECEIVED = 1005
ABNORMAL_CLOSURE = 1006

# What an honest client may send at once: a page leaves all that it has and joins as much again, twice; and what a slow
# network held back comes together.
FRAMES_FOR_EACH_SUBSCRIPTION = 4
BURST_SECONDS = 10.0

NO_TOPIC = Topic("", "")


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
    """What every connection of this process shares."""

    def __init__(
        self,
        feed: Subscriptions,
        streams: Collection[str],
        settings: Settings,
        access_log: AccessLog | None = None,
        admission: Admission | None = None,
    ) -> None:
        """Without `admission` everybody may have the streams."""
        self._access_log = access_log
        self._refusals = Refusals(access_log)
        self.feed = feed
        self.admission = admission or Admission.of_all(streams)
        self.settings = settings
        self.unknown_streams = UnknownStreams(streams)
        self.asked: set[SocketConnection] = set()  # those for which somebody had to be asked
        self._addresses = Addresses(settings)
        self._crowd = Crowd.of(settings)
        self._joins = Joins(settings)
        # One of each for all connections: what they encode is shared.
        self.motia = motia.MotiaDialect()
        self.tidelog = tidelog.TidelogDialect()

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection until it ends."""
        offered = cast("Collection[str]", scope.get("subprotocols") or ())
        connect: type[SocketConnection] = MotiaConnection
        accepted = None
        if tidelog.SUBPROTOCOL in offered:
            connect = TidelogConnection
            accepted = tidelog.SUBPROTOCOL
        elif AUTHORIZATION in offered:
            # Motia's clients send a token as `Authorization, <token>`, and fail unless the first is selected.
            accepted = AUTHORIZATION
        if (await receive())["type"] != "websocket.connect":
            return
        place = None
        try:
            try:
                place = self._crowd.enter(self._addresses.of(scope))  # before anybody is asked, which costs more
                caller = await self.admission.callers.of(scope)
                place = self._crowd.identify(place, caller.subject)
            except TidelogError as error:
                await self._refusals.refuse(scope, receive, send, error)
                return
            await self._serve(connect, accepted, caller, place, scope, receive, send)
        finally:
            if place is not None:
                self._crowd.leave(place)

    async def _serve(
        self,
        connect: type[SocketConnection],
        accepted: str | None,
        caller: Caller,
        place: Place,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        await send({"type": "websocket.accept", "subprotocol": accepted, "headers": []})
        connection = connect(scope, receive, send, self, caller, self._joins.allowance_of(place))
        if self._access_log is None:
            await connection.serve()
        else:
            with self._access_log.socket(scope, connect.dialect_name, connection):
                await connection.serve()

    async def ask_again(self, hints: Collection[Hint]) -> None:
        """Ask anew for the subscriptions that these are about; what is denied now ends. Returns when all is asked."""
        rounds = [done for connection in self.asked if (done := connection.ask_again(hints)) is not None]
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


class SocketConnection:
    """One client. It subscribes for it, and takes messages from the feed without ever making it wait."""

    dialect: Dialect
    dialect_name: str
    close_code = ABNORMAL_CLOSURE  # until it is known

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, gate: SocketGate, caller: Caller, joins: Allowance
    ) -> None:
        self._receive = receive
        self._scope = scope
        self._client = cast("dict[str, Any]", scope).get("client")
        self._gate = gate
        self.caller = caller
        self._mode: Mode = gate.admission.mode_of(scope)
        self._entrance: Entrance | None = None  # if somebody has to be asked
        self._expiry = None if caller.expires_at is None else self._make_expiry(caller.expires_at)
        self._joins = joins
        self._subscriptions: dict[str, Subscription] = {}
        self._task = asyncio.current_task()
        self._is_stuck = False
        self._is_flooding = False
        self._count_at_end = 0
        settings = gate.settings
        per_second = settings.socket_frames_per_second_max
        burst = settings.socket_subscriptions_max * FRAMES_FOR_EACH_SUBSCRIPTION + per_second * BURST_SECONDS
        self._allowance = Allowance(burst, per_second)
        self.outlet = open_outlet(
            scope,
            send,
            gate.feed.cork,
            settings.socket_buffer_bytes_max,
            self._allowance,
            self._note_full,
            self._note_failure,
            self._let_go,
        )
        self.deliver = self.outlet.write

    async def serve(self) -> None:
        """Read messages until the connection ends; then nothing of it is left in the feed."""
        self._gate.feed.enter(self)
        try:
            while True:
                message = cast("dict[str, Any]", await self._receive())
                if message["type"] == "websocket.disconnect":
                    self.close_code = _close_code(message)
                    break
                if not self._is_flooding:
                    self._take(message.get("text"))
                if not await self.outlet.may_go_on() and not self._is_flooding:
                    self._is_flooding = True  # nothing more is taken until it is closed
                    floods.note(self._client)
                    self.outlet.close(POLICY_VIOLATION, self._allowance.reason)
                await self._drained()
        except asyncio.CancelledError:
            if not self._is_stuck or self._task is None:
                raise
            self._task.uncancel()  # by _let_go
        finally:
            self.outlet.end()
            self._gate.feed.leave(self, self._subscriptions.values())
            self._end_of_access()
            # Each of them has this connection: it would stay until Python looks for garbage.
            self._count_at_end = len(self._subscriptions)
            self._subscriptions.clear()

    async def _drained(self) -> None:
        """A client that doesn't take the answers can't ask for more.

        Perhaps nobody else waits for it to take them: it may have left all that it had, or nothing happens there. And
        while it is not read from, what it sends, pongs too, is no sign of life.
        """
        with suppress(FellBehindError):  # it is being closed
            await self._gate.feed.drained(self)

    @property
    def subscription_count(self) -> int:
        """How many it has, or had when it ended."""
        return len(self._subscriptions) or self._count_at_end

    @property
    def is_full(self) -> bool:
        return self.outlet.is_full

    @property
    def taken(self) -> int:
        return self.outlet.taken

    @property
    def waiting_bytes(self) -> int:
        return self.outlet.waiting_bytes

    async def drained(self) -> None:
        await self.outlet.drained()

    def give_up(self, position: int | None) -> None:
        """It fell behind and did not catch up: close it, and tell it from where to come back."""
        at = "" if position is None else f" at position {position}"
        self.outlet.close(TRY_AGAIN_LATER, f"fell behind{at}: come back")

    def fail(self) -> None:
        """A fault of ours: it may come back."""
        self.outlet.close(INTERNAL_ERROR, "the server failed: come back")

    def refuse(self, subscription: Subscription, error: TidelogError) -> None:
        """It is over, by the server's doing: its name and its place are free, and the client is told."""
        self._forget(subscription)
        self.deliver(self.dialect.refuse(subscription, error.code, str(error)))

    def ask_again(self, hints: Collection[Hint]) -> asyncio.Future[None] | None:
        """Ask anew for those subscriptions that these are about; None if there are none."""
        return None if self._entrance is None else self._entrance.ask_again(hints)

    def _take(self, text: str | None) -> None:
        try:
            if text is None:
                raise MessageInvalidError("expected a text message, not a binary one")
            self._handle(text)
        except MessageInvalidError as error:
            self.deliver(self._error(error.code, str(error)))
        except Exception as error:
            self._note_failure(error)

    def _handle(self, text: str) -> None:
        """Do what the client's message asks for, or raise MessageInvalidError."""
        raise NotImplementedError

    def _error(self, code: str, message: str) -> Messages:
        """Tell of an error that concerns no subscription."""
        raise NotImplementedError

    def _subscribe(self, subscription: Subscription) -> None:
        """Subscribe, if it is allowed, or when it is."""
        gate = self._gate
        seconds = seconds_until_next(self._joins)
        if seconds:
            self.refuse(subscription, TooManyJoinsError(self._joins.per_second, seconds))
            return
        gate.unknown_streams.note(subscription.topic.stream)
        is_allowed = gate.admission.access.at_once(self.caller, subscription.topic.stream, self._mode)
        if is_allowed is False:
            self.deliver(self.dialect.refuse(subscription, *ACCESS_DENIED))
        elif len(self._subscriptions) >= gate.settings.socket_subscriptions_max:
            message = f"a connection may have {gate.settings.socket_subscriptions_max} subscriptions"
            self.deliver(self.dialect.refuse(subscription, "too_many_subscriptions", message))
        else:
            self._subscriptions[subscription.name] = subscription
            if is_allowed:
                gate.feed.subscribe(subscription)
            else:
                self._asked().ask(subscription)

    def _unsubscribe(self, name: str) -> None:
        subscription = self._subscriptions.get(name)
        if subscription is not None:
            self._forget(subscription)
            self._gate.feed.unsubscribe(subscription)

    def _forget(self, subscription: Subscription) -> None:
        """It is over: its name and its place are free."""
        if self._subscriptions.get(subscription.name) is subscription:
            del self._subscriptions[subscription.name]
        if self._entrance is not None:
            self._entrance.end(subscription)

    def _asked(self) -> Entrance:
        if self._entrance is None:
            access, feed = self._gate.admission.access, self._gate.feed
            self._entrance = Entrance(access, self.caller, self._mode, feed.subscribe, self._deny, self._lose)
            self._gate.asked.add(self)
        return self._entrance

    def _deny(self, subscription: Subscription) -> None:
        """It may not be had, or not any more."""
        if self._take_away(subscription):
            self.deliver(self.dialect.refuse(subscription, *ACCESS_DENIED))

    def _lose(self, subscription: Subscription) -> None:
        """Whether it may still be had can't be found out: it ends, and may be asked for again."""
        if self._take_away(subscription):
            error = SubscriptionUnavailableError("it can't be found out who may: subscribe again later")
            self.refuse(subscription, error)

    def _take_away(self, subscription: Subscription) -> bool:
        """End it; False if the connection had to be closed: what waits to be sent may be of it, and of others."""
        was_let_in = self._gate.feed.unsubscribe(subscription)
        self._forget(subscription)
        if was_let_in and self.outlet.is_full:
            self.outlet.close(TRY_AGAIN_LATER, "access to a subscription has ended: come back with the others")
            return False
        return True

    def _make_expiry(self, ends_at: float) -> Expiry:
        expiry = Expiry(self._tell_expiry, self._end_authentication)
        expiry.set(ends_at)
        return expiry

    def _tell_expiry(self, ends_at: float) -> None:
        """Its dialect may have no word for it."""

    def _end_authentication(self) -> None:
        self.outlet.close(UNAUTHORIZED, "the authentication has expired: come back with a new one")

    def _end_of_access(self) -> None:
        if self._expiry is not None:
            self._expiry.stop()
        if self._entrance is not None:
            self._entrance.close()
            self._gate.asked.discard(self)

    def _note_full(self) -> None:
        self._gate.feed.note_full(self)

    def _note_failure(self, error: Exception) -> None:
        self._gate.feed.fail({self: error})

    def _let_go(self) -> None:
        self._is_stuck = True
        if self._task is not None:
            self._task.cancel()


class MotiaConnection(SocketConnection):
    """A client of Motia's."""

    dialect: motia.MotiaDialect
    dialect_name = "motia"

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, gate: SocketGate, caller: Caller, joins: Allowance
    ) -> None:
        super().__init__(scope, receive, send, gate, caller, joins)
        self.dialect = gate.motia

    def _handle(self, text: str) -> None:
        request = motia.parse(text)
        self._unsubscribe(request.subscription_id)  # a join that repeats a subscription's name replaces it
        if request.type == "join":
            self._subscribe(SyncSubscription(request.subscription_id, self, request.topic, request.item_id))

    def refuse(self, subscription: Subscription, error: TidelogError) -> None:
        """Its client subscribes again when a connection was lost, and only then: so for what may pass this one ends."""
        if isinstance(error, SubscriptionUnavailableError):
            self.fail()
        elif isinstance(error, TooManyJoinsError):
            self.outlet.close(TRY_AGAIN_LATER, f"too many joins: come back in {error.retry_seconds} s")
        else:
            super().refuse(subscription, error)

    def _error(self, code: str, message: str) -> Messages:
        return self.dialect.error(NO_TOPIC, None, code, message)


class TidelogConnection(SocketConnection):
    """A client that speaks `tidelog.v1`."""

    dialect: tidelog.TidelogDialect
    dialect_name = tidelog.SUBPROTOCOL

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, gate: SocketGate, caller: Caller, joins: Allowance
    ) -> None:
        super().__init__(scope, receive, send, gate, caller, joins)
        self.dialect = gate.tidelog
        self._renewal: asyncio.Task[None] | None = None

    def refuse(self, subscription: Subscription, error: TidelogError) -> None:
        """Some errors say when to ask again."""
        if isinstance(error, TooManyJoinsError):
            self.deliver(self.dialect.error(error.code, str(error), subscription.name, error.retry_seconds))
        else:
            super().refuse(subscription, error)

    def _handle(self, text: str) -> None:
        request = tidelog.parse(text)
        if isinstance(request, tidelog.Unsubscribe):
            self._unsubscribe(request.id)
        elif isinstance(request, tidelog.Auth):
            self._begin_renewal(request.token)
        elif request.id in self._subscriptions:
            message = f"there is a subscription {request.id!r} on this connection: unsubscribe it first"
            self.deliver(self.dialect.error("subscription_exists", message, request.id))
        else:
            self._subscribe(PositionSubscription(request.id, self, request.topic, request.item_id, request.since))

    def _error(self, code: str, message: str) -> Messages:
        return self.dialect.error(code, message)

    def _tell_expiry(self, ends_at: float) -> None:
        self.deliver(self.dialect.token_expires(ends_at))

    def _end_of_access(self) -> None:
        super()._end_of_access()
        if self._renewal is not None:
            self._renewal.cancel()

    def _begin_renewal(self, token: str) -> None:
        """One at a time: each costs the server more than the client."""
        if self._renewal is not None and not self._renewal.done():
            self.deliver(self._error("auth_pending", "another token is being looked at: wait for the answer"))
        else:
            self._renewal = self._gate.admission.access.spawn(self._renew(token))

    async def _renew(self, token: str) -> None:
        """Have the same client go on with another token. What it may have is asked again, as it may say less."""
        try:
            caller = await self._gate.admission.callers.renewed(self._scope, token)
            if self.caller.is_known and (self.caller.subject is None or caller.subject != self.caller.subject):
                raise UnauthorizedError("the token is of somebody else: open another connection with it")
        except TidelogError as error:
            self.deliver(self._error(error.code, str(error)))
            return
        self.caller = caller
        if self._expiry is not None:
            self._expiry.set(caller.expires_at)
        elif caller.expires_at is not None:
            self._expiry = self._make_expiry(caller.expires_at)
        if self._entrance is not None:
            self._entrance.caller = caller
            self._entrance.ask_again((ALL,))
        self.deliver(self.dialect.authenticated(caller.expires_at))


def _close_code(message: dict[str, Any]) -> int:
    """uvicorn says 1005 also of a connection that broke; then there is no reason, not even an empty one."""
    code: int = message.get("code") or NO_STATUS_RECEIVED
    return ABNORMAL_CLOSURE if code == NO_STATUS_RECEIVED and message.get("reason") is None else code
