"""How a subscription without a position begins: with a sync of the whole present state.

Clients of such a dialect can't be told what a sync is of, so it must be of the very moment at which it is
sent: it is brought up to the feed's position then, and the subscription is live from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable, Sequence
from contextlib import aclosing
from typing import Literal

from tidelog.fair import Claim
from tidelog.feed.budget import Holding, NoRoomError
from tidelog.feed.catch_up.means import Means
from tidelog.feed.catch_up.openings import Openings
from tidelog.feed.catch_up.outcome import Failed
from tidelog.feed.catch_up.overlay import Overlay
from tidelog.feed.catch_up.spool import Spool
from tidelog.feed.messages import LongMessage, Messages
from tidelog.feed.patience import Patience
from tidelog.feed.subscription import Dialect, Subscription, SyncSubscription
from tidelog.feed.tasks import Tasks
from tidelog.model.change import Change, Topic
from tidelog.store.snapshot import SnapshotHead

ITEM_BYTES = 200  # what an item takes beside its text, while it is read: a key, two texts' heads, a place in a dict

# "later": its connection was full, or fell behind, when it could have been live.
Synced = Literal["live", "later"] | Failed


class FullSyncs:
    """Those that are read now, each for all that ask for it meanwhile."""

    def __init__(self, means: Means, tasks: Tasks, patience: Patience, size_max_bytes: int) -> None:
        """`size_max_bytes` bounds each of them."""
        self._means = means
        self._tasks = tasks
        self._patience = patience
        self._size_max_bytes = size_max_bytes
        self._syncs: dict[tuple[Topic, str | None], FullSync] = {}

    def of(self, topic: Topic, item_id: str | None, client: Hashable) -> FullSync:
        """The present state of this for a client, perhaps one that is being read for others."""
        key = (topic, item_id)
        sync = self._syncs.get(key)
        if sync is None or not sync.is_open:
            sync = self._syncs[key] = FullSync(self._means, topic, item_id, self._size_max_bytes, client)
            sync.attach()
            sync.task = self._tasks.spawn(self._patience.retrying(sync.read, topic.stream), lambda: sync.waiting)
            sync.task.add_done_callback(lambda _: self._end(key, sync))
        return sync

    def _end(self, key: tuple[Topic, str | None], sync: FullSync) -> None:
        """Whatever came of it, also if it was cancelled before it began."""
        sync.end()
        if self._syncs.get(key) is sync:
            del self._syncs[key]


class FullSyncStage:
    """One subscription on its way to being live, by way of the sync that is read for it."""

    def __init__(self, subscription: SyncSubscription) -> None:
        self.task: asyncio.Task[None] | None = None  # who runs it
        self._subscription = subscription
        self._sync: FullSync | None = None

    async def run(self, means: Means, syncs: FullSyncs, openings: Openings) -> Failed | None:
        """Return when it is live; or why it can't be served. Raises what Draining.wait does."""
        subscription, subscriber = self._subscription, self._subscription.subscriber
        async with openings.turn(subscriber, subscription.topic.stream):
            while True:
                # A connection that is full can't take a sync, nor one of which what is live is behind the present.
                await means.draining.wait(subscriber, None)
                while (behind := means.registry.behind(subscriber)) is not None:
                    await behind.ended.wait()
                self._sync = syncs.of(subscription.topic, subscription.item_id, subscriber.client)
                synced = await self._sync.join(subscription)
                if synced != "later":
                    return None if synced == "live" else synced

    def drop(self, subscription: Subscription) -> None:
        """Part of the registry's Stage."""
        if self._sync is not None:
            self._sync.drop(subscription)
        if self.task is not None and self.task is not asyncio.current_task():
            self.task.cancel()


class FullSync:
    """All the subscriptions to one group (or one item) that wait for the same snapshot.

    It ends at the feed's position of that moment, whenever they joined: so late-comers may share it, and a
    thousand reconnecting sockets cost one read.
    """

    def __init__(self, means: Means, topic: Topic, item_id: str | None, size_max_bytes: int, client: Hashable) -> None:
        """`client` is who asked first, and as whose it is counted; others who join may bring it forward."""
        self.topic = topic
        self.item_id = item_id
        self.is_open = True  # whether others may join
        self.task: asyncio.Task[None] | None = None  # who runs it: cancelled when nobody waits
        self._archive, self._progress = means.archive, means.progress
        self._registry, self._budget = means.registry, means.budget
        self._size_max_bytes = size_max_bytes
        self._waiting: dict[Subscription, tuple[SyncSubscription, asyncio.Future[Synced]]] = {}  # in their order
        self._items: dict[str, str] = {}
        self._client = client
        self._claim = Claim(client)
        self._memory = Holding(self._budget.memory, client)  # of the items
        self._spool: Spool | None = None  # the same, encoded while the database makes more
        self._lacking: NoRoomError | None = None  # for what was changed while it was read
        self._overlay = Overlay(self._send)

    @property
    def waiting(self) -> Iterable[Subscription]:
        """Those that wait for it."""
        return self._waiting

    async def join(self, subscription: SyncSubscription) -> Synced:
        """Wait for what comes of it."""
        self._claim.join(subscription.subscriber.client)
        synced: asyncio.Future[Synced] = asyncio.get_running_loop().create_future()
        self._waiting[subscription] = subscription, synced
        return await synced

    def drop(self, subscription: Subscription) -> None:
        """This subscription has ended."""
        self._waiting.pop(subscription, None)
        if not self._waiting:
            self._leave()
            if self.task is not None and self.task is not asyncio.current_task():
                self.task.cancel()

    def attach(self) -> None:
        """From here on it is told what is published."""
        self._registry.attach_to_snapshot(self.topic, self._overlay)

    def end(self) -> None:
        """Whatever came of it: nothing of it is kept."""
        self._leave()
        self._forget()
        self._overlay.end()

    async def read(self) -> None:
        """Read the snapshot, again if need be, until the feed has passed it and it is sent.

        Raises what the archive and the budget raise.
        """
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
                self._overlay.expect(head, self._progress.position)
                if await self._overlay.settled() == "complete" and self._lacking is None:
                    return
            self._forget()
            self._overlay.overflow()  # what comes while it waits is kept for nothing
            room = None if self._lacking is None else await self._lacking.wait()

    async def _read_items(self, room: Holding | None) -> SnapshotHead:
        """`room` is what is reserved, of one of the resources."""
        budget = self._budget
        spool = self._spool = Spool(budget, self._client, self._size_max_bytes, "TIDELOG_SYNC_SIZE_MAX_BYTES")
        if room is not None and room.resource is budget.memory:
            self._memory = room
        elif room is not None:
            spool.reserve(room)
        async with self._archive.snapshot(self.topic, self.item_id, self._claim) as snapshot:
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
        failure: Exception | None = None
        try:
            self._lay_over([change for id, change in self._overlay.changes().items() if self.item_id in (None, id)])
        except NoRoomError as error:
            self._lacking = error  # it is read again, when there is
            return
        except Exception as error:
            failure = error
        waiting, self._waiting = self._waiting, {}
        syncs: dict[Dialect, Messages] = {}
        for subscription, synced in waiting.values():
            if not synced.done():  # else who waited for it is being cancelled
                synced.set_result(Failed(failure) if failure is not None else self._send_to(subscription, syncs))
        self._leave()
        self._forget()

    def _send_to(self, subscription: SyncSubscription, syncs: dict[Dialect, Messages]) -> Synced:
        """Of those that share the snapshot one may fail, and the others not."""
        subscriber = subscription.subscriber
        if subscriber.is_full or self._registry.behind(subscriber) is not None:
            return "later"
        dialect = subscription.dialect
        try:
            if dialect not in syncs:
                syncs[dialect] = self._encode(subscription)
            self._registry.go_live(subscription)
            subscriber.deliver(syncs[dialect])
        except Exception as error:
            if self._registry.is_live(subscription):
                self._registry.end_live([subscription])  # nothing may come without the sync before it
            return Failed(error)
        return "live"

    def _encode(self, subscription: SyncSubscription) -> Messages:
        spool, dialect = self._spool, subscription.dialect
        assert spool is not None  # noqa: S101 - it has been read
        if spool.is_in_file and self.item_id is None:
            head, tail = dialect.sync_ends(self.topic, self._progress.at_ms)
            return LongMessage(head, spool, tail)
        texts = [page for page, _ in spool.pages() if page]
        return dialect.sync(self.topic, self.item_id, texts, self._progress.at_ms)

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
        self._registry.detach_from_snapshot(self.topic, self._overlay)
        self.is_open = False

    def _forget(self) -> None:
        """Give back what was read; who is still being sent it, holds it."""
        self._items = {}
        self._memory.release()
        spool, self._spool = self._spool, None
        if spool is not None:
            spool.close()
