"""Whether the feed stands still for want of a database, or in which epoch it goes on: and who has been told.

It knows connections and nothing of subscriptions; what it tells them is made by their dialects.
"""

from __future__ import annotations

import asyncio

from tidelog.feed.failures import Unserved
from tidelog.feed.progress import Progress
from tidelog.feed.registry import Registry
from tidelog.feed.subscription import Subscriber
from tidelog.feed.tasks import Tasks


class Status:
    """What every connection is to know of the feed as a whole, in the order of the commits."""

    def __init__(self, progress: Progress, registry: Registry, tasks: Tasks) -> None:
        self._progress = progress
        self._registry = registry
        self._tasks = tasks
        self.is_interrupted = False
        # Those who could not take it, and are waited for: the next commit may be far.
        self._untold: dict[Subscriber, asyncio.Task[None]] = {}

    def tell(self, *, interrupted: bool) -> Unserved:
        """Tell everybody, if it is news. Returns who could not be told, for a fault of ours."""
        if interrupted == self.is_interrupted:
            return {}
        self.is_interrupted = interrupted
        return self.tell_everybody()

    def tell_everybody(self) -> Unserved:
        """Returns who could not be told, for a fault of ours."""
        unserved: Unserved = {}
        for subscriber in self._registry.subscribers:
            try:
                self._tell(subscriber)
            except Exception as error:
                unserved[subscriber] = error
        return unserved

    def tell_missed(self, subscriber: Subscriber) -> None:
        """This one can take what it could not."""
        if subscriber in self._untold:
            self._tell(subscriber)

    def enter(self, subscriber: Subscriber) -> None:
        """A new connection; that all is well is no news to it."""
        if self.is_interrupted:
            self._tell(subscriber)

    def leave(self, subscriber: Subscriber) -> None:
        waiting = self._untold.pop(subscriber, None)
        if waiting is not None and waiting is not asyncio.current_task():
            waiting.cancel()

    def _tell(self, subscriber: Subscriber) -> None:
        if subscriber.is_full:
            if subscriber not in self._untold:
                self._untold[subscriber] = self._tasks.spawn(self._tell_when_drained(subscriber), tuple)
            return
        self.leave(subscriber)
        # The position holds for all that is live of the connection, and that may have fallen behind.
        behind = self._registry.behind(subscriber)
        position = self._progress.position if behind is None else behind.cursor
        message = subscriber.dialect.status(
            interrupted=self.is_interrupted, position=position, epoch=self._progress.epoch
        )
        if message is not None:
            subscriber.deliver(message)

    async def _tell_when_drained(self, subscriber: Subscriber) -> None:
        while subscriber.is_full:
            await subscriber.drained()
        self.tell_missed(subscriber)
