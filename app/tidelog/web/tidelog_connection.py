"""A connection that speaks `tidelog.v1`: positions, errors that say when to ask again, and another token in band."""

from __future__ import annotations

import asyncio

from litestar.types import Receive, Scope, Send

from tidelog.access.caller import Caller
from tidelog.access.recheck import ALL
from tidelog.errors import NoSuchStreamError, TidelogError, TooManyAttemptsError, TooManyJoinsError, UnauthorizedError
from tidelog.feed.messages import Messages
from tidelog.feed.subscription import PositionSubscription, Subscription
from tidelog.web.connection import Shared, SocketConnection
from tidelog.web.crowd import Member
from tidelog.web.dialects import tidelog
from tidelog.web.transaction_waits import TransactionWaits


class TidelogConnection(SocketConnection):
    """A client that speaks `tidelog.v1`."""

    dialect: tidelog.TidelogDialect
    dialect_name = tidelog.SUBPROTOCOL
    denial = str(NoSuchStreamError())  # as reads over HTTP say it

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, shared: Shared, caller: Caller, member: Member
    ) -> None:
        super().__init__(scope, receive, send, shared, caller, member)
        self.dialect = shared.tidelog
        self._renewal: asyncio.Task[None] | None = None
        self._waits = TransactionWaits(shared.waiting, self.dialect, self.deliver)

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
        elif isinstance(request, tidelog.Wait):
            self._waits.begin(request.transaction, self.client)
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
        self._waits.cancel()

    def _begin_renewal(self, token: str) -> None:
        """One at a time: each costs the server more than the client."""
        if self._renewal is not None and not self._renewal.done():
            self.deliver(self._error("auth_pending", "another token is being looked at: wait for the answer"))
        else:
            self._renewal = self._shared.admission.access.spawn(self._renew(token))

    async def _renew(self, token: str) -> None:
        """Have the same client go on with another token. What it may have is asked again, as it may say less."""
        try:
            caller = await self._shared.admission.callers.renewed(self._scope, token)
            if self.caller.is_known and (self.caller.subject is None or caller.subject != self.caller.subject):
                raise UnauthorizedError("the token is of somebody else: open another connection with it")
            self._member.identify(caller.subject)
        except TooManyAttemptsError as error:
            self.deliver(self.dialect.error(error.code, str(error), retry_seconds=error.retry_seconds))
            return
        except TidelogError as error:
            self.deliver(self._error(error.code, str(error)))
            return
        self.caller = caller
        self._joins = self._shared.joins.allowance_of(self._member.client)
        if self._expiry is not None:
            self._expiry.set(caller.expires_at)
        elif caller.expires_at is not None:
            self._expiry = self._make_expiry(caller.expires_at)
        if self._entrance is not None:
            self._entrance.caller = caller
            self._entrance.ask_again((ALL,))
        self.deliver(self.dialect.authenticated(caller.expires_at))
