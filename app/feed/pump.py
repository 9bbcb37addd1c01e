"""Brings subscriptions of one connection from a past position to the present, by reading the log.

It serves those who come back with a position, those whose snapshot has been sent, and those who could not
keep up: the log is their buffer, so the server's memory does not grow with them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from app.feed.audience import Channel, Touched, deliver
from app.feed.subscription import CommitHead, Messages, PositionSubscription, Subscriber, Subscription
from app.model.change import Change, Commit, GroupCommit, Topic, net_changes
from app.store.ahead import ahead
from app.store.archive import ForgottenError
from app.store.reading import Page, PageRequest, read_after
from app.store.ready import ReadyRequest, Wording, read_ready

if TYPE_CHECKING:
    from app.feed.broadcaster import Broadcaster
    from app.model.position import ResetReason

logger = logging.getLogger("tidelog.pump")

# What is published while the last of the log is read, and delivered after it without waiting again. Past
# either the pump reads on in the log.
KEPT_COMMITS_MAX = 1000
KEPT_BYTES_MAX = 1024 * 1024


class Pump:
    """Delivers the commits after `cursor` to subscriptions of one connection, and then lets them go live.

    At the present, the last step is one without waiting: what was published since the log was read has been
    kept, and is delivered in the same turn in which the subscriptions join the live ones.
    """

    def __init__(
        self,
        broadcaster: Broadcaster,
        subscriber: Subscriber,
        subscriptions: Sequence[Subscription],
        cursor: int,
        *,
        is_new: bool,
    ) -> None:
        """New ones have not been live before, and are told when they are."""
        self.subscriptions = subscriptions
        self._broadcaster = broadcaster
        self._subscriber = subscriber
        self._channels: dict[Topic, Channel] = {}  # of this pump's own subscriptions, to be delivered to
        self._cursor = cursor  # all up to it is delivered
        self._is_new = is_new
        self._kept: list[tuple[Commit, list[Touched]]] = []
        self._kept_bytes = 0
        self._overflown = False
        self._task: asyncio.Task[None] | None = None
        self.ended = asyncio.Event()  # its subscriptions are live, or over
        dialect = self._dialect = subscriber.dialect.replay()
        for subscription in subscriptions:
            self._channels.setdefault(subscription.topic, Channel()).go_live(subscription, dialect)

    def start(self) -> None:
        for topic in self._channels:
            self._broadcaster.attach(topic, self)
        self._task = self._broadcaster.errands.spawn(self._run(), lambda: self.subscriptions)

    def drop(self, subscription: Subscription) -> None:
        """Deliver no more for this subscription."""
        channel = self._channels[subscription.topic]
        channel.leave(subscription, self._dialect)
        if not channel.live:
            del self._channels[subscription.topic]
            self._broadcaster.detach(subscription.topic, self)
        if not self._channels and self._task is not None:
            self._task.cancel()
            self._end()

    def keep(self, commit: Commit, topic: Topic, part: GroupCommit, changes: Sequence[Change]) -> None:
        """Part of the feed's Follower: what is published meanwhile."""
        if self._overflown or commit.number <= self._cursor:
            return
        touched = Touched(topic, self._channels[topic], part, changes)
        if self._kept and self._kept[-1][0] is commit:
            self._kept[-1][1].append(touched)
        else:
            self._kept.append((commit, [touched]))
        self._kept_bytes += part.size
        if len(self._kept) > KEPT_COMMITS_MAX or self._kept_bytes > KEPT_BYTES_MAX:
            self.overflow()

    def overflow(self) -> None:
        """Too much came to be kept, or a commit too big to be carried: it is in the log."""
        self._overflown = True
        self._kept.clear()

    async def _run(self) -> None:
        await self._broadcaster.errands.retrying(self._catch_up, f"reading the log for {list(self._channels)}")

    async def _catch_up(self) -> None:
        while self._channels:
            await self._drained()
            # From here to the end of the log that is read, `keep` gathers what is published.
            self._kept.clear()
            self._kept_bytes, self._overflown = 0, False
            try:
                if not await self._read_log(self._broadcaster.furthest):
                    return
            except ForgottenError:
                self._restart("too_old")
                return
            await self._drained()
            if self._overflown:
                continue
            if self._broadcaster.position < self._cursor:
                # A commit is being read, or the client comes from another process, which is further on.
                await self._broadcaster.reached(self._cursor, self._broadcaster.joins)
                continue
            other = self._broadcaster.behind(self._subscriber)
            if self._is_new and other is not None:
                # Positions on a connection hold for all its live subscriptions: these must not overtake those.
                await other.ended.wait()
                continue
            with self._broadcaster.cork.held():
                for commit, touched in self._kept:
                    if commit.number > self._cursor:
                        self._deliver(commit, touched)
            self._go_live()
            return

    async def _read_log(self, last: int) -> bool:
        """Deliver the commits up to `last`; False if that came to an end in a commit too big to be carried."""
        pages_max = 1
        while self._cursor < last:
            only = self._only_one()
            wording = None if only is None else self._dialect.ready(only)
            if only is None or wording is None:
                return await self._read_commits(last, None)
            before = self._cursor
            await self._read_ready(only, wording, last)
            # Where none is ready it is tried again later and later.
            pages_max = 1 if self._cursor > before else 2 * pages_max
            if not await self._read_commits(last, pages_max):
                return False
        return True

    def _only_one(self) -> Subscription | None:
        """The only subscription, if there is one."""
        live = [subscription for channel in self._channels.values() for subscription in channel.live]
        return live[0] if len(live) == 1 else None

    async def _read_ready(self, only: Subscription, wording: Wording, last: int) -> None:
        """Deliver the commits up to `last`, or up to the first of which the database can't make a message."""

        async def fetch(request: ReadyRequest) -> Sequence[Any]:
            return await self._broadcaster.archive.ready(request, wording, only.topic, only.item_id)

        async with aclosing(ahead(read_ready(fetch, self._cursor, last))) as pages:
            async for messages, number in pages:
                if messages:
                    self._subscriber.deliver(Messages(messages))
                self._cursor = number
                await self._drained()

    async def _read_commits(self, last: int, pages_max: int | None) -> bool:
        """Deliver the commits up to `last`, or some pages of them; False after one too big to be carried."""
        pages = 0

        async def fetch(request: PageRequest) -> Page:
            return await self._broadcaster.archive.page(request, self._channels)

        async for commits in read_after(fetch, self._cursor, last, self._channels.__contains__):
            with self._broadcaster.cork.held():
                for commit in commits:
                    if commit.truncated:
                        self._restart("too_large")
                        return False
                    self._deliver(commit, self._touched(commit))
            await self._drained()
            pages += bool(commits)
            if pages == pages_max:
                return True
        self._cursor = max(self._cursor, last)
        return True

    def _touched(self, commit: Commit) -> list[Touched]:
        return [
            Touched(topic, self._channels[topic], part, net_changes(part.changes))
            for topic, part in commit.groups.items()
            if topic in self._channels
        ]

    def _deliver(self, commit: Commit, touched: Sequence[Touched]) -> None:
        deliver(CommitHead(commit.number, commit.at_ms), touched)
        self._cursor = commit.number

    async def _drained(self) -> None:
        if self._subscriber.is_full:
            await self._broadcaster.errands.drained(self._subscriber, self._cursor)

    def _go_live(self) -> None:
        for subscription in self._release():
            self._broadcaster.go_live(subscription)
            if self._is_new and isinstance(subscription, PositionSubscription):
                broadcaster = self._broadcaster
                message = subscription.dialect.live(subscription, broadcaster.position, broadcaster.epoch)
                self._subscriber.deliver(message)
        self._broadcaster.tell_missed_status(self._subscriber)

    def _restart(self, reason: ResetReason) -> None:
        """These subscriptions need the present state instead."""
        for subscription in self._release():
            self._broadcaster.begin_anew(subscription, reason)

    def _release(self) -> list[Subscription]:
        """Let go of all subscriptions."""
        subscriptions = [subscription for channel in self._channels.values() for subscription in channel.live]
        for topic in self._channels:
            self._broadcaster.detach(topic, self)
        self._channels.clear()
        self._end()
        return subscriptions

    def _end(self) -> None:
        self._broadcaster.caught_up(self._subscriber, self)
        self.ended.set()
