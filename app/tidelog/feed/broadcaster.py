"""Hands every commit to those who subscribed: the feed's front, for the reader and for connections.

All of it runs on one event loop and, but for reading what is stored, without waiting: between two commits the
world stands still, and a subscription goes live exactly between two of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from tidelog.errors import TidelogError
from tidelog.feed.budget import Budget
from tidelog.feed.catch_up.means import Means
from tidelog.feed.cork import Cork
from tidelog.feed.draining import Draining
from tidelog.feed.failures import Failures, Unserved
from tidelog.feed.lobby import Lobby
from tidelog.feed.patience import Patience
from tidelog.feed.progress import Progress
from tidelog.feed.publisher import Publisher
from tidelog.feed.registry import Registry
from tidelog.feed.stats import FeedStats
from tidelog.feed.status import Status
from tidelog.feed.subscription import Subscriber, Subscription
from tidelog.feed.tasks import Tasks
from tidelog.feed.trouble import Troubles
from tidelog.feed.turns import Turns
from tidelog.model.change import Commit, Topic
from tidelog.settings import Settings
from tidelog.store.archive import Archive
from tidelog.store.log import Head


class Broadcaster:
    """The subscriptions of this process: a CommitSink, and Subscriptions (interfaces.py)."""

    def __init__(self, archive: Archive, settings: Settings) -> None:
        self.archive = archive
        self.cork = Cork()
        self.failures = Failures()
        self.troubles = Troubles()
        self.budget = Budget(
            settings.snapshot_memory_max_bytes,
            settings.snapshot_disk_max_bytes,
            settings.subscribe_patience_seconds,
        )
        self._wanted = asyncio.Event()
        self.progress = Progress(self._wanted)
        self.registry = Registry(self._wanted)
        self._tasks = Tasks(self.troubles, self._refuse, self._fail_told)
        self.status = Status(self.progress, self.registry, self._tasks)
        self._draining = Draining(settings.socket_drain_timeout_seconds)
        self.lobby = Lobby(
            Means(archive, self.progress, self.registry, self.budget, self._draining, Turns(), self.cork),
            self.status,
            self._tasks,
            Patience(
                settings.subscribe_patience_seconds,
                self.progress,
                lambda: self.status.is_interrupted,
                self.troubles,
            ),
            self.failures,
            sync_size_max_bytes=settings.sync_size_max_bytes,
            snapshot_size_max_bytes=settings.snapshot_size_max_bytes,
        )
        self._publisher = Publisher(self.progress, self.registry, self.lobby, self.cork)

    # What the reader calls.

    def start(self, position: int, at_ms: float) -> None:
        self.progress.start(position, at_ms)

    def go_on(self, head: Head) -> None:
        self.progress.go_on(head)
        for follower in self.registry.snapshot_followers:
            follower.overflow()  # what is being read may show what a crash of the database has undone

    def go_back(self, head: Head) -> None:
        self.progress.go_back(head)
        self.lobby.begin_all_again()
        self.progress.tell()

    def begin_epoch(self, epoch: str) -> None:
        """Clients that come back with it need not begin again."""
        if epoch != self.progress.epoch:
            self.progress.epoch = epoch
            self.lobby.fail(self.status.tell_everybody())

    @property
    def is_deserted(self) -> bool:
        return not self.registry.topics

    async def wait_for_interest(self, seconds: float) -> None:
        self._wanted.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wanted.wait()

    @property
    def wanted(self) -> Collection[Topic]:
        return self.registry.topics

    async def prepare(self, commit: Commit) -> None:
        await self._publisher.prepare(commit)

    def note_partial(self, position: int) -> None:
        self.progress.partial_position = position
        self.settle()

    def publish(self, commits: Sequence[Commit]) -> None:
        self._publisher.publish(commits)

    def settle(self) -> None:
        for follower in self.registry.snapshot_followers:
            follower.check(self.progress.position)
        self.progress.tell()

    def tell_status(self, *, interrupted: bool) -> None:
        self.lobby.fail(self.status.tell(interrupted=interrupted))

    # What connections call.

    def subscribe(self, subscription: Subscription) -> None:
        if subscription.subscriber in self.registry:  # else it could not be served, and is being closed
            self.lobby.admit(subscription)

    def unsubscribe(self, subscription: Subscription) -> bool:
        return self.lobby.cancel(subscription)

    def note_full(self, subscriber: Subscriber) -> None:
        self.registry.full.add(subscriber)

    async def drained(self, subscriber: Subscriber) -> None:
        behind = self.registry.behind(subscriber)
        await self._draining.wait(subscriber, None if behind is None else behind.cursor)

    def enter(self, subscriber: Subscriber) -> None:
        self.registry.enter(subscriber)
        try:
            self.status.enter(subscriber)
        except Exception as error:
            self.fail({subscriber: error})

    def leave(self, subscriber: Subscriber, subscriptions: Iterable[Subscription]) -> None:
        self.lobby.leave(subscriber, subscriptions)

    def fail(self, unserved: Mapping[Subscriber, Exception]) -> None:
        self.lobby.fail(unserved)

    # What who made it calls.

    async def close(self) -> None:
        """End all that brings subscriptions to the present."""
        await self._tasks.close()

    def stats(self, head: int = 0, lag_seconds: float = 0.0) -> FeedStats:
        """What it has and does now. `head` is the last commit that is known to be numbered."""
        subscribers = self.registry.subscribers
        return FeedStats(
            at_seconds=time.monotonic(),
            position=self.progress.position,
            lag_commits=max(0, head - self.progress.position),
            lag_seconds=lag_seconds,
            connections=len(subscribers),
            connections_behind=sum(self.registry.behind(one) is not None for one in subscribers),
            subscriptions_live=self.registry.live_counts(),
            subscriptions_on_their_way=Counter(one.topic.stream for one in self.registry.on_their_way),
            waiting_bytes=sum(one.waiting_bytes for one in subscribers),
            commits_total=self._publisher.commits_total,
            deliveries_total=self._publisher.deliveries_total,
            failed_connections_total=self.failures.connections,
        )

    def _refuse(self, subscription: Subscription, error: TidelogError) -> None:
        self.lobby.refuse(subscription, error)

    def _fail_told(self, unserved: Unserved) -> None:
        self.lobby.fail(unserved, is_told=True)
