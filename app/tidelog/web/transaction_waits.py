"""What a client of `tidelog.v1` waits for: that the feed has passed a transaction, so that it reads its own writes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable

from tidelog.errors import NotSupportedError, SubscriptionUnavailableError, TidelogError
from tidelog.feed.messages import Messages
from tidelog.web.dialects.tidelog import TidelogDialect
from tidelog.web.reads.parameters import Awaited
from tidelog.web.reads.waiting import Waiting

WAITS_MAX = 8  # of a connection; each asks the database

logger = logging.getLogger("tidelog.subscriptions")


class TransactionWaits:
    """Of one connection, which is told of each by `deliver`."""

    def __init__(self, waiting: Waiting | None, dialect: TidelogDialect, deliver: Callable[[Messages], None]) -> None:
        self._waiting = waiting
        self._dialect = dialect
        self._deliver = deliver
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, transaction: str, client: Hashable) -> None:
        """Wait, in `client`'s share of the places."""
        if len(self._tasks) >= WAITS_MAX:
            message = f"a connection may wait for {WAITS_MAX} transactions at once"
            self._deliver(self._dialect.not_passed(transaction, "too_many_waits", message))
            return
        task = asyncio.create_task(self._wait(transaction, client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self) -> None:
        """The connection is over."""
        for task in self._tasks:
            task.cancel()

    async def _wait(self, transaction: str, client: Hashable) -> None:
        """Tell the client behind all that the feed brings it up to there."""
        try:
            if self._waiting is None:
                raise NotSupportedError("this server knows nothing of transactions")
            position = await self._waiting.until_passed(Awaited.of(transaction), client, is_to_be_delivered=True)
        except TidelogError as error:
            self._deliver(self._dialect.not_passed(transaction, error.code, str(error)))
        except Exception as error:  # of the database, which may be away
            logger.warning("what a client waits for could not be looked up: %s: %s", type(error).__name__, error)
            message = "it can't be looked up now: ask again"
            self._deliver(self._dialect.not_passed(transaction, SubscriptionUnavailableError.code, message))
        else:
            self._deliver(self._dialect.passed(transaction, position))
