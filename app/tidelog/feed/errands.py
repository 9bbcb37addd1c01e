"""The tasks that bring subscriptions to the present: what they wait for, and what becomes of them when they fail."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any

from tidelog.errors import TidelogError
from tidelog.feed.failures import Unserved
from tidelog.feed.patience import Patience
from tidelog.feed.subscription import Subscriber, Subscription
from tidelog.feed.trouble import Troubles

# A client that takes less is not waited for: it would have what waits for it kept for hours.
DRAIN_BYTES_PER_SECOND_MIN = 500  # less than the worst of mobile networks brings

Refuse = Callable[[Subscription, TidelogError], None]


class FellBehindError(Exception):
    """A subscriber did not drain in time and has been given up: whatever served it ends."""


class Errands:
    """All the tasks of a broadcaster."""

    def __init__(
        self,
        drain_timeout_seconds: float,
        patience: Patience,
        troubles: Troubles,
        refuse: Refuse,
        on_failure: Callable[[Unserved], None],
    ) -> None:
        """`refuse` is called for each subscription that can't be had; `on_failure` with whom a bug left unserved."""
        self._drain_timeout_seconds = drain_timeout_seconds
        self._patience = patience
        self._troubles = troubles
        self._refuse = refuse
        self._on_failure = on_failure
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(
        self, work: Coroutine[Any, Any, None], served: Callable[[], Iterable[Subscription]]
    ) -> asyncio.Task[None]:
        """A task for the subscriptions in `served`: a TidelogError ends them, a bug in it ends their connections."""
        task = asyncio.create_task(self._guard(work, served))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: work.close())  # one that was cancelled before its first step never began it
        task.add_done_callback(forget_cancellation)
        return task

    async def close(self) -> None:
        while self._tasks:  # one that ends may let the next one begin
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def retrying(
        self,
        work: Callable[[], Awaitable[None]],
        stream: str | None = None,
        progress: Callable[[], object] = lambda: None,
    ) -> None:
        """Do `work`, which may be of one stream, again and again while the database is away.

        Raises SubscriptionUnavailableError and StreamUnreadableError if it can't be done though the database is there,
        for too long without a change of `progress`; and the other errors of `work`.
        """
        await self._patience.retrying(work, stream, progress)

    async def drained(self, subscriber: Subscriber, cursor: int | None) -> None:
        """Wait until the subscriber, which got all up to `cursor`, can take more.

        Raises FellBehindError if it takes nothing for too long, or next to nothing; it is being closed then.
        """
        if not subscriber.is_full:
            return
        taken = subscriber.taken
        while not await self._is_drained(subscriber):
            before, taken = taken, subscriber.taken
            if taken - before < DRAIN_BYTES_PER_SECOND_MIN * self._drain_timeout_seconds:
                subscriber.give_up(cursor)
                raise FellBehindError

    async def _is_drained(self, subscriber: Subscriber) -> bool:
        """Whether it has drained within a while."""
        try:
            async with asyncio.timeout(self._drain_timeout_seconds):
                await subscriber.drained()
        except TimeoutError:
            return False
        return True

    async def _guard(self, work: Coroutine[Any, Any, None], served: Callable[[], Iterable[Subscription]]) -> None:
        try:
            await work
        except FellBehindError:
            pass  # the connection is being closed
        except TidelogError as error:
            for subscription in list(served()):
                self._refuse(subscription, error)
        except Exception as error:
            # A bug of ours must neither go unseen nor leave somebody waiting who could come back and be served.
            subscriptions = list(served())
            self._troubles.note_bug({subscription.topic.stream for subscription in subscriptions}, error)
            self._on_failure({subscription.subscriber: error for subscription in subscriptions})


def forget_cancellation(task: asyncio.Task[Any]) -> None:
    """Have a cancelled task keep no error, which, by its traceback, keeps all that the task worked on."""
    if task.cancelled():
        with suppress(asyncio.CancelledError):
            task.exception()  # hands it out, once
