"""One client's connection: what it asks for, and what the feed tells it, in no dialect. The feed never waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

from litestar.types import Receive, Scope, Send

from tidelog.access.caller import Caller
from tidelog.access.decisions import Mode
from tidelog.access.recheck import Hint
from tidelog.errors import MessageInvalidError, SubscriptionUnavailableError, TidelogError, TooManyJoinsError
from tidelog.feed.draining import FellBehindError
from tidelog.feed.interfaces import Subscriptions
from tidelog.feed.messages import Messages
from tidelog.feed.subscription import Dialect, Subscription
from tidelog.settings import Settings
from tidelog.web.admission import Admission
from tidelog.web.allowance import POLICY_VIOLATION, Allowance, floods
from tidelog.web.crowd import Joins, Member, seconds_until_next
from tidelog.web.dialects.motia import MotiaDialect
from tidelog.web.dialects.tidelog import TidelogDialect
from tidelog.web.entrance import Entrance
from tidelog.web.expiry import Expiry
from tidelog.web.outlet import open_outlet
from tidelog.web.reads.waiting import Waiting
from tidelog.web.unknown_streams import UnknownStreams

# The code that Motia's clients know for a join that isn't allowed, in both dialects. An unknown stream answers the
# same, so that nobody learns which streams exist by asking.
ACCESS_DENIED = "STREAM_ACCESS_DENIED"
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


@dataclass(eq=False, slots=True)
class Shared:
    """What all connections of one gate share."""

    feed: Subscriptions  # of the application's present start
    admission: Admission
    settings: Settings
    unknown_streams: UnknownStreams
    joins: Joins
    waiting: Waiting | None = None  # for transactions
    asked: set[SocketConnection] = field(default_factory=set)  # those for which somebody had to be asked
    # One of each for all connections: what they encode is shared.
    motia: MotiaDialect = field(default_factory=MotiaDialect)
    tidelog: TidelogDialect = field(default_factory=TidelogDialect)


class SocketConnection:
    """One client. It subscribes for it, and takes messages from the feed without ever making it wait."""

    dialect: Dialect
    dialect_name: str
    denial: str  # what a client is told of a stream that is not for it, or not there
    close_code = ABNORMAL_CLOSURE  # until it is known

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, shared: Shared, caller: Caller, member: Member
    ) -> None:
        self._receive = receive
        self._scope = scope
        self._client = cast("dict[str, Any]", scope).get("client")
        self._shared = shared
        self.caller = caller
        self._mode: Mode = shared.admission.mode_of(scope)
        self._entrance: Entrance | None = None  # if somebody has to be asked
        self._expiry = None if caller.expires_at is None else self._make_expiry(caller.expires_at)
        self._member = member
        self._joins = shared.joins.allowance_of(member.client)
        self._subscriptions: dict[str, Subscription] = {}
        self._task = asyncio.current_task()
        self._is_stuck = False
        self._is_flooding = False
        self._count_at_end = 0
        settings = shared.settings
        per_second = settings.socket_frames_per_second_max
        burst = settings.socket_subscriptions_max * FRAMES_FOR_EACH_SUBSCRIPTION + per_second * BURST_SECONDS
        self._allowance = Allowance(burst, per_second)
        self.outlet = open_outlet(
            scope,
            send,
            shared.feed.cork,
            settings.socket_buffer_bytes_max,
            self._allowance,
            self._note_full,
            self._note_failure,
            self._let_go,
        )
        self.deliver = self.outlet.write

    async def serve(self) -> None:
        """Read messages until the connection ends; then nothing of it is left in the feed."""
        self._shared.feed.enter(self)
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
            self._shared.feed.leave(self, self._subscriptions.values())
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
            await self._shared.feed.drained(self)

    @property
    def subscription_count(self) -> int:
        """How many it has, or had when it ended."""
        return len(self._subscriptions) or self._count_at_end

    @property
    def client(self) -> Hashable:
        return self._member.client or self

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
        shared = self._shared
        seconds = seconds_until_next(self._joins)
        if seconds:
            self.refuse(subscription, TooManyJoinsError(self._joins.per_second, seconds))
            return
        shared.unknown_streams.note(subscription.topic.stream)
        is_allowed = shared.admission.access.at_once(self.caller, subscription.topic.stream, self._mode)
        if is_allowed is False:
            self.deliver(self.dialect.refuse(subscription, ACCESS_DENIED, self.denial))
        elif len(self._subscriptions) >= shared.settings.socket_subscriptions_max:
            message = f"a connection may have {shared.settings.socket_subscriptions_max} subscriptions"
            self.deliver(self.dialect.refuse(subscription, "too_many_subscriptions", message))
        else:
            self._subscriptions[subscription.name] = subscription
            if is_allowed:
                shared.feed.subscribe(subscription)
            else:
                self._asked().ask(subscription)

    def _unsubscribe(self, name: str) -> None:
        subscription = self._subscriptions.get(name)
        if subscription is not None:
            self._forget(subscription)
            self._shared.feed.unsubscribe(subscription)

    def _forget(self, subscription: Subscription) -> None:
        """It is over: its name and its place are free."""
        if self._subscriptions.get(subscription.name) is subscription:
            del self._subscriptions[subscription.name]
        if self._entrance is not None:
            self._entrance.end(subscription)

    def _asked(self) -> Entrance:
        if self._entrance is None:
            access, feed = self._shared.admission.access, self._shared.feed
            self._entrance = Entrance(access, self.caller, self._mode, feed.subscribe, self._deny, self._lose)
            self._shared.asked.add(self)
        return self._entrance

    def _deny(self, subscription: Subscription) -> None:
        """It may not be had, or not any more."""
        if self._take_away(subscription):
            self.deliver(self.dialect.refuse(subscription, ACCESS_DENIED, self.denial))

    def _lose(self, subscription: Subscription) -> None:
        """Whether it may still be had can't be found out: it ends, and may be asked for again."""
        if self._take_away(subscription):
            error = SubscriptionUnavailableError("it can't be found out who may: subscribe again later")
            self.refuse(subscription, error)

    def _take_away(self, subscription: Subscription) -> bool:
        """End it; False if the connection had to be closed: what waits to be sent may be of it, and of others."""
        was_let_in = self._shared.feed.unsubscribe(subscription)
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
            self._shared.asked.discard(self)

    def _note_full(self) -> None:
        self._shared.feed.note_full(self)

    def _note_failure(self, error: Exception) -> None:
        self._shared.feed.fail({self: error})

    def _let_go(self) -> None:
        self._is_stuck = True
        if self._task is not None:
            self._task.cancel()


def _close_code(message: dict[str, Any]) -> int:
    """uvicorn says 1005 also of a connection that broke; then there is no reason, not even an empty one."""
    code: int = message.get("code") or NO_STATUS_RECEIVED
    return ABNORMAL_CLOSURE if code == NO_STATUS_RECEIVED and message.get("reason") is None else code
