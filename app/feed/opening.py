"""How a subscription with a position begins: from where it says, or with a snapshot; then the pump."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from app.errors import TidelogError

if TYPE_CHECKING:
    from app.feed.broadcaster import Broadcaster
    from app.feed.subscription import PositionSubscription, Subscription
    from app.model.position import Position


class Opening:
    """One subscription on its way to a pump; without `since` by way of a snapshot of `not_before` or later."""

    def __init__(
        self, broadcaster: Broadcaster, subscription: PositionSubscription, since: Position | None, not_before: int
    ) -> None:
        self._broadcaster = broadcaster
        self._subscription = subscription
        self._since = since
        self._not_before = not_before  # what its client was told already: a snapshot must not be older
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = self._broadcaster.errands.spawn(self._run(), lambda: [self._subscription])

    def drop(self, _subscription: Subscription) -> None:
        """Its only subscription has ended."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        what = f"opening a subscription to {self._subscription.topic}"
        try:
            await self._broadcaster.errands.retrying(self._open, what)
        except TidelogError as error:
            self._broadcaster.refuse(self._subscription, error)

    async def _open(self) -> None:
        if self._since is None:
            await self._begin_with_snapshot()
            return
        is_reached = False
        while not is_reached:
            joins = self._broadcaster.joins
            standing = await self._broadcaster.archive.standing(self._since)
            if standing.refused is not None:
                self._broadcaster.reset(self._subscription, standing.refused)
                return
            # Not live before all that was there when it came: this process may be a moment behind.
            is_reached = await self._broadcaster.reached(standing.head, joins)
        self._broadcaster.pump(self._subscription, self._since.number)

    async def _begin_with_snapshot(self) -> None:
        subscription, subscriber = self._subscription, self._subscription.subscriber
        async with self._broadcaster.spooling(subscription, self._not_before).use() as spool:
            for items, more in spool.pages():
                await self._broadcaster.errands.drained(subscriber, None)
                message = subscription.dialect.page(subscription, spool.position, spool.epoch, items, more=more)
                subscriber.deliver(message)
            position = spool.position
        self._broadcaster.pump(subscription, position)
