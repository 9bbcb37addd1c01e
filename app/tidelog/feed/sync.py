"""How a subscription without a position begins: with a sync of the whole present state.

Clients of such a dialect can't be told what a sync is of, so it must be of the very moment at which it is
sent: it is brought up to the feed's position then, and the subscription is live from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from tidelog.feed.budget import Holding, NoRoomError
from tidelog.feed.overlay import Overlay
from tidelog.feed.spool import Spool
from tidelog.feed.subscription import LongMessage

if TYPE_CHECKING:
    from tidelog.feed.broadcaster import Broadcaster
    from tidelog.feed.failures import Unserved
    from tidelog.feed.subscription import Dialect, Messages, Subscription, SyncSubscription
    from tidelog.model.change import Change, Topic
    from tidelog.store.snapshot import SnapshotHead

ITEM_BYTES = 200  # what an item takes beside its text, while it is read: a key, two texts' heads, a place in a dict


class SyncOpening:
    """One subscription on its way to being live."""

    def __init__(self, broadcaster: Broadcaster, subscription: SyncSubscription) -> None:
        self._broadcaster = broadcaster
        self._subscription = subscription
        self._syncing: Syncing | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = self._broadcaster.errands.spawn(self._run(), lambda: [self._subscription])

    def drop(self, _subscription: Subscription) -> None:
        """Its only subscription has ended."""
        if self._syncing is not None:
            self._syncing.drop(self._subscription)
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    async def _run(self) -> None:
        broadcaster, subscription = self._broadcaster, self._subscription
        subscriber = subscription.subscriber
        async with broadcaster.openings.turn(subscriber, subscription.topic.stream):
            is_synced = False
            while not is_synced:
                # A connection that is full can't take a sync, nor one of which what is live is behind the present.
                await broadcaster.errands.drained(subscriber, None)
                while (pump := broadcaster.behind(subscriber)) is not None:
                    await pump.ended.wait()
                self._syncing = broadcaster.syncing(subscription.topic, subscription.item_id)
                is_synced = await self._syncing.add(subscription)


class Syncing:
    """All the subscriptions to one group (or one item) that wait for the same snapshot.

    It ends at the feed's position of that moment, whenever they joined: so late-comers may share it, and a
    thousand reconnecting sockets cost one read.
    """

    def __init__(self, broadcaster: Broadcaster, topic: Topic, item_id: str | None, size_max_bytes: int) -> None:
        self._broadcaster = broadcaster
        self._topic = topic
        self._item_id = item_id
        budget = broadcaster.budget
        self._size_max_bytes = size_max_bytes
        self._waiting: dict[SyncSubscription, asyncio.Future[bool]] = {}  # in their order
        self._items: dict[str, str] = {}
        self._memory = Holding(budget.memory)  # of the items
        self._spool: Spool | None = None  # the same, encoded while the database makes more
        self._lacking: NoRoomError | None = None  # for what was changed while it was read
        self._overlay = Overlay(self._send)
        self._task: asyncio.Task[None] | None = None

    async def add(self, subscription: SyncSubscription) -> bool:
        """Wait until it is live; False if its connection was full, or fell behind, when it could have been."""
        synced: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting[subscription] = synced
        return await synced

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
            self._forget()
            self._overlay.end()

    async def _read(self) -> None:
        """Read the snapshot, again if need be, until the feed has passed it and it is sent."""
        room: Holding | None = None
        while True:
            self._overlay.clear()
            self._lacking = None
            if room is None:
                self._forget()  # what a try before this one has left
            try:
                head = await self._read_items(room)
            except NoRoomError as error:
                self._lacking = error
            else:
                self._broadcaster.expect(self._overlay, head)
                if await self._overlay.settled() == "complete" and self._lacking is None:
                    return
            self._forget()
            self._overlay.overflow()  # what comes while it waits is kept for nothing
            room = None if self._lacking is None else await self._lacking.wait()

    async def _read_items(self, room: Holding | None) -> SnapshotHead:
        """`room` is what is reserved, of one of the resources."""
        budget = self._broadcaster.budget
        spool = self._spool = Spool(budget, self._size_max_bytes, "TIDELOG_SYNC_SIZE_MAX_BYTES")
        if room is not None and room.resource is budget.memory:
            self._memory = room
        elif room is not None:
            spool.reserve(room)
        async with self._broadcaster.archive.snapshot(self._topic, self._item_id) as snapshot:
            async with aclosing(snapshot.batches("id, data")) as batches:
                async for rows in batches:
                    texts = [row[1] for row in rows]
                    self._memory.grow(sum(map(len, texts)) + ITEM_BYTES * len(texts))
                    self._items.update(rows)
                    spool.add(texts)
            spool.finish()  # but not settled: what is laid over may take more
            self._memory.settle()
            return snapshot.head

    def _send(self) -> None:
        """The overlay is complete, at the feed's position: sync, and go live in the same turn."""
        syncs: dict[Dialect, Messages] = {}
        unserved: Unserved = {}  # they are closed, the others that share the snapshot are not
        try:
            self._lay_over([change for id, change in self._overlay.changes().items() if self._item_id in (None, id)])
        except NoRoomError as error:
            self._lacking = error  # it is read again, when there is
            return
        except Exception as error:
            unserved.update({subscription.subscriber: error for subscription in self._waiting})
        waiting, self._waiting = self._waiting, {}
        for subscription, synced in waiting.items():
            if subscription.subscriber not in unserved:
                try:
                    synced.set_result(self._send_to(subscription, syncs))
                except Exception as error:
                    unserved[subscription.subscriber] = error
        self._broadcaster.fail(unserved)
        self._leave()
        self._forget()

    def _send_to(self, subscription: SyncSubscription, syncs: dict[Dialect, Messages]) -> bool:
        subscriber = subscription.subscriber
        if subscriber.is_full or self._broadcaster.behind(subscriber) is not None:
            return False
        dialect = subscription.dialect
        if dialect not in syncs:
            syncs[dialect] = self._encode(subscription)
        self._broadcaster.go_live(subscription)
        subscriber.deliver(syncs[dialect])
        return True

    def _encode(self, subscription: SyncSubscription) -> Messages:
        spool, dialect = self._spool, subscription.dialect
        assert spool is not None  # noqa: S101 - it has been read
        if spool.is_in_file and self._item_id is None:
            head, tail = dialect.sync_ends(self._topic, self._broadcaster.at_ms)
            return LongMessage(head, spool, tail)
        texts = [page for page, _ in spool.pages() if page]
        return dialect.sync(self._topic, self._item_id, texts, self._broadcaster.at_ms)

    def _lay_over(self, changes: Sequence[Change]) -> None:
        """Bring what was read up to date; where nothing was changed meanwhile, it is ready."""
        for change in changes:
            if change.op == "delete":
                self._items.pop(change.id, None)
            else:
                self._items[change.id] = change.data
        assert self._spool is not None  # noqa: S101 - it has been read
        if changes:
            # In the room that it has: given back, it would go to who waits for it, and of two groups that are written
            # to all the time each would have to begin again for the other.
            self._spool.rewrite(list(self._items.values()))
        self._spool.settle()

    def _leave(self) -> None:
        """Nobody waits any more, nor may join."""
        self._broadcaster.detach(self._topic, self._overlay)
        self._broadcaster.end_syncing(self._topic, self._item_id, self)

    def _forget(self) -> None:
        """Give back what was read; who is still being sent it, holds it."""
        self._items = {}
        self._memory.release()
        spool, self._spool = self._spool, None
        if spool is not None:
            spool.close()
