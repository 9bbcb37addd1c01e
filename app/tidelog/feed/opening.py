"""How a subscription with positions begins that has none: with a snapshot; then the pump."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tidelog.feed.broadcaster import Broadcaster
    from tidelog.feed.subscription import PositionSubscription, Subscription


class Opening:
    """One subscription on its way to a pump, by way of a snapshot of `not_before` or later."""

    def __init__(self, broadcaster: Broadcaster, subscription: PositionSubscription, not_before: int) -> None:
        self._broadcaster = broadcaster
        self._subscription = subscription
        self._not_before = not_before  # what its client was told already: a snapshot must not be older
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = self._broadcaster.errands.spawn(self._run(), lambda: [self._subscription])

    def drop(self, _subscription: Subscription) -> None:
        """Its only subscription has ended."""
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    async def _run(self) -> None:
        await self._broadcaster.errands.retrying(self._begin_with_snapshot, self._subscription.topic.stream)

    async def _begin_with_snapshot(self) -> None:
        subscription, subscriber = self._subscription, self._subscription.subscriber
        broadcaster = self._broadcaster
        async with broadcaster.openings.turn(subscriber, subscription.topic.stream):
            await broadcaster.errands.drained(subscriber, None)
            async with broadcaster.spooling(subscription, self._not_before).use() as spool:
                pages, more = spool.pages(), True
                while more:
                    await broadcaster.errands.drained(subscriber, None)  # before the page is read
                    items, more = next(pages)
                    message = subscription.dialect.page(subscription, spool.position, spool.epoch, items, more=more)
                    subscriber.deliver(message)
                position = spool.position
        broadcaster.pump(subscription, position)
