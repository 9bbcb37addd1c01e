"""The tasks that bring subscriptions to the present: what they wait for, and what becomes of them when they fail."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from app.feed.backoff import Backoff
from app.feed.failures import Unserved
from app.feed.subscription import Subscriber, Subscription
from app.store.failure import TROUBLE

logger = logging.getLogger("tidelog.errands")


class FellBehindError(Exception):
    """A subscriber did not drain in time and has been given up: whatever served it ends."""


class Errands:
    """All the tasks of a broadcaster."""

    def __init__(self, drain_timeout_seconds: float, on_failure: Callable[[Unserved], None]) -> None:
        """`on_failure` is told whom a task did not serve, for a fault of ours."""
        self._drain_timeout_seconds = drain_timeout_seconds
        self._on_failure = on_failure
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(
        self, work: Coroutine[Any, Any, None], served: Callable[[], Iterable[Subscription]]
    ) -> asyncio.Task[None]:
        """A task for the subscriptions in `served`; a bug in it ends their connections."""
        task = asyncio.create_task(self._guard(work, served))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: work.close())  # one that was cancelled before its first step never began it
        return task

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def retrying(self, work: Callable[[], Awaitable[None]], what: str) -> None:
        """Do `work`, again and again while the database is away. Raises its other errors."""
        backoff = Backoff()
        while True:
            try:
                return await work()
            except TROUBLE as error:
                logger.warning("%s failed, trying again: %s: %s", what, type(error).__name__, error)
            await backoff.wait()

    async def drained(self, subscriber: Subscriber, cursor: int | None) -> None:
        """Wait until the subscriber, which got all up to `cursor`, can take more.

        Raises FellBehindError if it doesn't in time; it is being closed then.
        """
        if not subscriber.is_full:
            return
        try:
            async with asyncio.timeout(self._drain_timeout_seconds):
                await subscriber.drained()
        except TimeoutError:
            subscriber.give_up(cursor)
            raise FellBehindError from None

    async def _guard(self, work: Coroutine[Any, Any, None], served: Callable[[], Iterable[Subscription]]) -> None:
        try:
            await work
        except FellBehindError:
            pass  # the connection is being closed
        except Exception as error:
            # A bug of ours must neither go unseen nor leave somebody waiting who could come back and be served.
            unserved: Unserved = {subscription.subscriber: error for subscription in served()}
            if not unserved:
                logger.exception("a task failed that served nobody any more")
            self._on_failure(unserved)
