"""The tasks that bring subscriptions to the present, and what becomes of these when one fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any

from tidelog.errors import TidelogError
from tidelog.feed.draining import FellBehindError
from tidelog.feed.failures import Unserved
from tidelog.feed.subscription import Subscription
from tidelog.feed.trouble import Troubles

Served = Callable[[], Iterable[Subscription]]


class Tasks:
    """All of a feed."""

    def __init__(
        self,
        troubles: Troubles,
        refuse: Callable[[Subscription, TidelogError], None],
        on_failure: Callable[[Unserved], None],
    ) -> None:
        """`refuse` is called for each subscription that can't be had; `on_failure` with whom a bug left unserved."""
        self._troubles = troubles
        self._refuse = refuse
        self._on_failure = on_failure
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None], served: Served) -> asyncio.Task[None]:
        """A task for the subscriptions in `served`: a TidelogError ends them, a bug in it ends their connections."""
        task = asyncio.create_task(self._guard(work, served))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: work.close())  # one that was cancelled before its first step never began it
        task.add_done_callback(forget_cancellation)
        return task

    async def close(self) -> None:
        """End them all."""
        while self._tasks:  # one that ends may let the next one begin
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _guard(self, work: Coroutine[Any, Any, None], served: Served) -> None:
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
