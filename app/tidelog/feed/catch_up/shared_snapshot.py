"""Snapshots for subscriptions with positions: read once for all that ask meanwhile, and sent at each client's pace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any
from weakref import WeakValueDictionary

from tidelog.fair import Claim
from tidelog.feed.budget import Holding, NoRoomError
from tidelog.feed.catch_up.means import Means
from tidelog.feed.catch_up.openings import Openings
from tidelog.feed.catch_up.overlay import Overlay
from tidelog.feed.catch_up.spool import Spool
from tidelog.feed.draining import Draining
from tidelog.feed.subscription import PositionSubscription
from tidelog.feed.tasks import forget_cancellation
from tidelog.feed.turns import Turns
from tidelog.model.change import Change, Topic


class SharedSnapshots:
    """Those that are read now. One that nobody reads any more goes with the garbage."""

    def __init__(self, means: Means, size_max_bytes: int) -> None:
        """`size_max_bytes` bounds each of them."""
        self.turns = Turns()  # at sending them: those who come back take theirs beside
        self._means = means
        self._size_max_bytes = size_max_bytes
        self._snapshots: WeakValueDictionary[tuple[Topic, str | None], SharedSnapshot] = WeakValueDictionary()

    def of(self, subscription: PositionSubscription, not_before: int) -> SharedSnapshot:
        """A snapshot for this subscription, of `not_before` or later, perhaps one that is being read for others."""
        key = (subscription.topic, subscription.item_id)
        snapshot = self._snapshots.get(key)
        if snapshot is None or not snapshot.is_shareable(not_before):
            snapshot = self._snapshots[key] = SharedSnapshot(self._means, subscription, self._size_max_bytes)
        snapshot.claim.join(subscription.subscriber.client)
        return snapshot

    def forget(self) -> None:
        """What is being read may show what has been undone: nobody may join it."""
        self._snapshots.clear()


async def send_snapshot(
    subscription: PositionSubscription,
    not_before: int,
    snapshots: SharedSnapshots,
    openings: Openings,
    draining: Draining,
) -> int:
    """Send a snapshot of `not_before` or later, in pages; returns its position, from which the subscription goes on.

    `not_before` is what the client was told already. Raises FellBehindError, and what SharedSnapshot.use does.
    """
    subscriber = subscription.subscriber
    claim = Claim(subscriber.client)
    async with openings.turn(subscriber, subscription.topic.stream):
        await draining.wait(subscriber, None)
        async with snapshots.of(subscription, not_before).use() as spool:
            pages, more = spool.pages(), True
            while more:
                await draining.wait(subscriber, None)  # before a page is read
                async with snapshots.turns.slice(claim) as has_time:
                    while more and not subscriber.is_full:
                        items, more = next(pages)
                        message = subscription.dialect.page(subscription, spool.position, spool.epoch, items, more=more)
                        subscriber.deliver(message)
                        if not has_time():
                            break
            return spool.position


class SharedSnapshot:
    """Reads one snapshot into a spool, for all that ask for it meanwhile; open as long as one of them uses it."""

    def __init__(self, means: Means, subscription: PositionSubscription, size_max_bytes: int) -> None:
        self._archive, self._progress = means.archive, means.progress
        self._registry, self._budget = means.registry, means.budget
        self._client = subscription.subscriber.client  # as whose it is counted
        self.claim = Claim(self._client)  # others who join may bring it forward
        self._topic = subscription.topic
        self._item_id = subscription.item_id
        self._dialect = subscription.dialect
        self._size_max_bytes = size_max_bytes
        self._users = 0
        self._abandoned = False
        self._position: int | None = None  # once it is known; before, it is going to be the feed's or later
        self._reading = asyncio.create_task(self._read())
        self._reading.add_done_callback(_take_exception)  # perhaps nobody waits any more who would

    def is_shareable(self, not_before: int) -> bool:
        """Whether it is still being read, and isn't older: else those who come begin with a newer one."""
        is_new_enough = self._position is None or self._position >= not_before
        return is_new_enough and not self._reading.done() and not self._abandoned

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Spool]:
        """The spool, once it is read. Raises SnapshotTooLargeError, StreamUnknownError, what the archive raises."""
        self._users += 1
        try:
            yield await asyncio.shield(self._reading)
        finally:
            self._users -= 1
            if not self._users:
                self._abandon()

    def _abandon(self) -> None:
        """Nobody uses it any more."""
        self._abandoned = True
        self._reading.cancel()
        if self._reading.done() and not self._reading.cancelled() and self._reading.exception() is None:
            self._reading.result().close()

    async def _read(self) -> Spool:
        room: Holding | None = None
        while True:
            spool = Spool(self._budget, self._client, self._size_max_bytes)
            if room is not None:
                spool.reserve(room)
            lacking: NoRoomError | None = None
            try:
                if await self._fill(spool):
                    return spool
            except NoRoomError as error:
                lacking = error
            except BaseException:
                spool.close()
                raise
            spool.close()
            self._position = None
            room = None if lacking is None else await lacking.wait()

    async def _fill(self, spool: Spool) -> bool:
        """Fill the spool; False if so much was published meanwhile that it must be begun again."""
        self._position = None
        dialect = self._dialect
        overlay = Overlay(lambda: None)
        self._registry.attach_to_snapshot(self._topic, overlay)
        try:
            async with self._archive.snapshot(self._topic, self._item_id, self.claim) as snapshot:
                overlay.expect(snapshot.head, self._progress.position)
                if await overlay.settled() == "overflown":
                    return False
                # Without waiting in between: what is laid over goes up to this position.
                spool.position, spool.epoch = self._progress.position, snapshot.head.epoch
                self._position = spool.position
                later = overlay.changes()
                self._registry.detach_from_snapshot(self._topic, overlay)
                async with aclosing(snapshot.batches("id, version, data")) as batches:
                    async for rows in batches:
                        spool.add(dialect.items(_as_of(later, rows) if later else rows))
        finally:
            self._registry.detach_from_snapshot(self._topic, overlay)
        created = [change for change in later.values() if self._item_id in (None, change.id)]
        spool.add(dialect.items([_row(change) for change in created if change.op != "delete"]))
        spool.finish()
        spool.settle()
        return True


def _as_of(later: dict[str, Change], rows: Sequence[Any]) -> list[Any]:
    """The rows with the later changes laid over them; these are then done with."""
    changed = []
    for row in rows:
        change = later.pop(row[0], None)
        if change is None:
            changed.append(row)
        elif change.op != "delete":
            changed.append(_row(change))
    return changed


def _row(change: Change) -> tuple[str, int, str]:
    return change.id, change.version, change.data


def _take_exception(task: asyncio.Task[Spool]) -> None:
    if task.cancelled():
        forget_cancellation(task)
    else:
        task.exception()
