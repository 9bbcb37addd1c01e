"""How a subscription without a position begins: with a sync of the whole present state, kept in memory.

Clients of such a dialect can't be told what a sync is of, so it must be of the very moment at which it is
sent: it is brought up to the feed's position then, and the subscription is live from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from tidelog.errors import SnapshotTooLargeError
from tidelog.feed.overlay import Overlay

if TYPE_CHECKING:
    from tidelog.feed.broadcaster import Broadcaster
    from tidelog.feed.failures import Unserved
    from tidelog.feed.subscription import Dialect, Messages, Subscription, SyncSubscription
    from tidelog.model.change import Change, Topic


class Syncing:
    """All the subscriptions to one group (or one item) that wait for the same snapshot.

    It ends at the feed's position of that moment, whenever they joined: so late-comers may share it, and a
    thousand reconnecting sockets cost one read.
    """

    def __init__(self, broadcaster: Broadcaster, topic: Topic, item_id: str | None, size_max_bytes: int) -> None:
        self._broadcaster = broadcaster
        self._topic = topic
        self._item_id = item_id
        self._size_max_bytes = size_max_bytes
        self._waiting: dict[SyncSubscription, None] = {}  # in their order
        self._items: dict[str, str] = {}
        self._texts: list[bytes] = []  # the same, encoded while the database makes more
        self._overlay = Overlay(self._send)
        self._task: asyncio.Task[None] | None = None

    def add(self, subscription: SyncSubscription) -> None:
        self._waiting[subscription] = None

    def drop(self, subscription: Subscription) -> None:
        """This subscription has ended."""
        self._waiting.pop(subscription, None)  # type: ignore[call-overload]  # it was added
        if not self._waiting:
            self._leave()
            if self._task is not None and self._task is not asyncio.current_task():
                self._task.cancel()

    def start(self) -> None:
        self._broadcaster.attach(self._topic, self._overlay)
        self._task = self._broadcaster.errands.spawn(self._run(), lambda: self._waiting)

    async def _run(self) -> None:
        try:
            await self._broadcaster.errands.retrying(self._read, self._topic.stream)
        finally:
            self._leave()

    async def _read(self) -> None:
        """Read the snapshot, again if need be, until the feed has passed it and it is sent."""
        while True:
            self._overlay.clear()
            self._items, self._texts = {}, []
            size = 0
            async with self._broadcaster.archive.snapshot(self._topic, self._item_id) as snapshot:
                head = snapshot.head
                async with aclosing(snapshot.batches("id, data")) as batches:
                    async for rows in batches:
                        self._items.update(rows)
                        text = ",".join([row[1] for row in rows])
                        self._texts.append(text.encode())
                        size += len(text)
                        if size > self._size_max_bytes:
                            raise SnapshotTooLargeError(
                                f"the group has over {self._size_max_bytes} bytes of items: subscribe to single items, "
                                "or raise TIDELOG_SYNC_SIZE_MAX_BYTES"
                            )
            self._broadcaster.expect(self._overlay, head)
            if await self._overlay.settled() == "complete":
                return

    def _send(self) -> None:
        """The overlay is complete, at the feed's position: sync, and go live in the same turn."""
        syncs: dict[Dialect, Messages] = {}
        unserved: Unserved = {}  # they are closed, the others that share the snapshot are not
        waiting, self._waiting = self._waiting, {}
        try:
            self._lay_over([change for id, change in self._overlay.changes().items() if self._item_id in (None, id)])
        except Exception as error:
            unserved.update({subscription.subscriber: error for subscription in waiting})
        for subscription in waiting:
            if subscription.subscriber not in unserved:
                try:
                    self._send_to(subscription, syncs)
                except Exception as error:
                    unserved[subscription.subscriber] = error
        self._broadcaster.fail(unserved)
        self._leave()

    def _send_to(self, subscription: SyncSubscription, syncs: dict[Dialect, Messages]) -> None:
        subscriber = subscription.subscriber
        if subscriber.is_full or self._broadcaster.behind(subscriber) is not None:
            self._broadcaster.sync_when_drained(subscription)
            return
        dialect = subscription.dialect
        if dialect not in syncs:
            syncs[dialect] = dialect.sync(self._topic, self._item_id, self._texts, self._broadcaster.at_ms)
        self._broadcaster.go_live(subscription)
        subscriber.deliver(syncs[dialect])

    def _lay_over(self, changes: Sequence[Change]) -> None:
        """Bring what was read up to date; where nothing was changed meanwhile, its texts are ready."""
        for change in changes:
            if change.op == "delete":
                self._items.pop(change.id, None)
            else:
                self._items[change.id] = change.data
        if changes:
            self._texts = [",".join(self._items.values()).encode()] if self._items else []

    def _leave(self) -> None:
        """Nobody waits any more, nor may join."""
        self._broadcaster.detach(self._topic, self._overlay)
        self._broadcaster.end_syncing(self._topic, self._item_id, self)


class SyncWhenDrained:
    """One whose connection can't take a sync now, as it is full, or what is live of it fell behind the present."""

    def __init__(self, broadcaster: Broadcaster, subscription: SyncSubscription) -> None:
        self._broadcaster = broadcaster
        self._subscription = subscription
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = self._broadcaster.errands.spawn(self._run(), lambda: [self._subscription])

    def drop(self, _subscription: Subscription) -> None:
        """Its only subscription has ended."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        subscriber = self._subscription.subscriber
        await self._broadcaster.errands.drained(subscriber, None)
        while (pump := self._broadcaster.behind(subscriber)) is not None:
            await pump.ended.wait()
        self._broadcaster.subscribe(self._subscription)
