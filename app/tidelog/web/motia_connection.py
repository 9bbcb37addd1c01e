"""A connection that speaks Motia's dialect: its clients can be told little, so some errors close it."""

from __future__ import annotations

from litestar.types import Receive, Scope, Send

from tidelog.access.caller import Caller
from tidelog.errors import SubscriptionUnavailableError, TidelogError, TooManyJoinsError
from tidelog.feed.messages import Messages
from tidelog.feed.subscription import Subscription, SyncSubscription
from tidelog.model.change import Topic
from tidelog.web.connection import TRY_AGAIN_LATER, Shared, SocketConnection
from tidelog.web.crowd import Member
from tidelog.web.dialects import motia

NO_TOPIC = Topic("", "")


class MotiaConnection(SocketConnection):
    """A client of Motia's."""

    dialect: motia.MotiaDialect
    dialect_name = "motia"
    denial = "Access denied"  # as Motia's servers say it

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, shared: Shared, caller: Caller, member: Member
    ) -> None:
        super().__init__(scope, receive, send, shared, caller, member)
        self.dialect = shared.motia

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
