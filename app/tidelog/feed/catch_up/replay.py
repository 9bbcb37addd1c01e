"""Brings subscriptions of one connection from past positions to the present, by reading the log once for all of them.

It serves those who come back with a position, those whose snapshot has been sent, and those who could not
keep up: the log is their buffer, so the server's memory does not grow with them.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from itertools import islice
from typing import Any

from tidelog.fair import Claim
from tidelog.feed.catch_up.means import Means
from tidelog.feed.catch_up.outcome import BeginAgain
from tidelog.feed.catch_up.recipients import Part, Recipients
from tidelog.feed.messages import Messages
from tidelog.feed.registry import Behind
from tidelog.feed.subscription import (
    PREPARED_ROWS_MIN,
    CommitHead,
    PositionSubscription,
    Subscriber,
    Subscription,
    net_changes_of,
    prepare,
)
from tidelog.model.change import Change, Commit, GroupCommit, Topic
from tidelog.model.position import ResetReason
from tidelog.store.archive import ForgottenError
from tidelog.store.failure import ROW_ERRORS, is_of_a_row
from tidelog.store.prefetch import prefetch
from tidelog.store.reading import Page, PageRequest, read_after
from tidelog.store.ready import ReadyRequest, Wanted, read_ready
from tidelog.store.stride import COMMITS_AT_ONCE

# What is published while the last of the log is read, and delivered after it without waiting again. Past
# either the replay reads on in the log.
KEPT_COMMITS_MAX = 1000
KEPT_BYTES_MAX = 1024 * 1024
LIVE_AT_ONCE_MAX = 100  # new ones; some milliseconds' work
STEP_SHRINKS_BY = 8  # from COMMITS_AT_ONCE to one commit in four time-outs


class Replay:
    """Delivers to each subscription the commits after its cursor, and then lets it go live.

    At the present, the last step is one without waiting: what was published since the log was read has been
    kept, and is delivered in the same turn in which the subscriptions join the live ones.
    """

    def __init__(
        self,
        means: Means,
        subscriber: Subscriber,
        cursors: Mapping[Subscription, int],
        begin_again: BeginAgain,
        *,
        is_new: bool,
    ) -> None:
        """New ones have not been live before, and are told when they are.

        `begin_again` is called for each that can't go on, in the turn of the event loop in which that is found: what is
        sent to the connection behind that moves the positions of all that is live of it.
        """
        self.ended = asyncio.Event()  # its subscriptions are live, or over
        self.subscriber = subscriber
        self.task: asyncio.Task[None] | None = None  # who runs it: cancelled when nobody is left
        self._means = means
        self._claim = Claim(subscriber.client)
        self._progress, self._registry = means.progress, means.registry
        self._subscriptions = list(cursors)
        self._begin_again = begin_again
        self._is_new = is_new
        self._dialect = subscriber.dialect.replay()
        self._recipients = Recipients(subscriber, self._dialect, cursors)
        self._cursor = min(cursors.values())  # all up to it is delivered
        self._last_cursor = max(cursors.values())
        self._kept: deque[tuple[CommitHead, list[Part]]] = deque()
        self._kept_bytes = 0
        # Whether what was kept, with the log up to the cursor, is not all that was published: the log must be read.
        self._lacks = True
        self._step = sys.maxsize  # commits, for which one statement or more are made; few after one that took too long

    @property
    def cursor(self) -> int:
        """All up to it is delivered."""
        return self._cursor

    @property
    def served(self) -> Collection[Subscription]:
        """Those who are told what becomes of it."""
        return list(self._recipients) or self._subscriptions

    def attach(self) -> None:
        """From here on it is told what is published."""
        for topic in self._recipients.topics:
            self._registry.attach(topic, self)

    def drop(self, subscription: Subscription) -> None:
        """Deliver no more for this subscription."""
        if subscription in self._recipients:
            self._release([subscription])
        if not self._recipients and self.task is not None:
            self.task.cancel()
            self.ended.set()

    def keep(self, commit: Commit, topic: Topic, part: GroupCommit, changes: Sequence[Change]) -> None:
        """Part of the feed's Follower: what is published meanwhile."""
        if self._lacks or commit.number <= self._cursor:
            return
        if not self._kept or self._kept[-1][0].number != commit.number:
            self._kept.append((CommitHead(commit.number, commit.at_ms, commit.xid), []))
        self._kept[-1][1].append(Part(topic, part, changes))
        self._kept_bytes += part.size
        if len(self._kept) > KEPT_COMMITS_MAX or self._kept_bytes > KEPT_BYTES_MAX:
            self.overflow()

    def overflow(self) -> None:
        """Too much came to be kept, or a commit too big to be carried: it is in the log."""
        self._lacks = True
        self._kept.clear()

    def end(self) -> None:
        """Nothing more is delivered, and whoever waits for it goes on."""
        for topic in self._recipients.topics:
            self._registry.detach(topic, self)
        self.ended.set()

    async def catch_up(self) -> None:
        """Return when all of them are live, or over. After an error of the database it may be tried again."""
        self._lacks = True
        while self._recipients:
            await self._drained()
            if self._lacks:
                # From here to the end of the log that is read, `keep` gathers what is published.
                self._kept.clear()
                self._kept_bytes, self._lacks = 0, False
                await self._read_log(self._progress.furthest)
                continue
            async with self._means.turns.slice(self._claim) as has_time:
                is_ready = self._is_ready()
                if is_ready and self._deliver_kept(has_time):
                    self._go_live()
            if not is_ready:
                await self._until_ready()

    def _is_ready(self) -> bool:
        """Whether what is kept is all that is left to be delivered before they may go live."""
        is_at_present = self._progress.position >= self._until
        return is_at_present and not self._lacks and not self.subscriber.is_full and self._older is None

    async def _until_ready(self) -> None:
        if self._progress.position < self._until:
            # A commit is being read, or the client comes from another process, which is further on.
            await self._progress.reached(self._until, self._progress.generation)
        elif (older := self._older) is not None:
            await older.ended.wait()

    @property
    def _until(self) -> int:
        """The position that the feed must have reached."""
        return max(self._cursor, self._last_cursor)

    @property
    def _older(self) -> Behind | None:
        """Positions on a connection hold for all its live subscriptions: new ones must not overtake these."""
        return self._registry.behind(self.subscriber) if self._is_new else None

    async def _read_log(self, last: int) -> None:
        """Deliver the commits up to `last`."""
        pages_max = 1
        while self._recipients and self._cursor < last:
            end = min(last, self._cursor + self._step)
            joining = self._recipients.joining(self._cursor)
            until = end if joining is None else min(end, joining)
            # Up to where more of them join, if that is far: else very many that join one by one were a statement each.
            is_far = until == end or until - self._cursor >= COMMITS_AT_ONCE
            wanted = self._recipients.wanted(self._cursor) if is_far else None
            before = self._cursor
            try:
                if wanted is not None:
                    await self._read_ready(wanted, until)
                if self._cursor < until:
                    # Where none is ready it is tried again later and later.
                    pages_max = 1 if self._cursor > before else 2 * pages_max
                    await self._read_commits(end, pages_max)
                self._step = min(2 * self._step, sys.maxsize)
            except TimeoutError:
                self._step = max(1, min(self._step, COMMITS_AT_ONCE) // STEP_SHRINKS_BY)
                raise
            except ForgottenError as error:
                if error.floors:
                    self._restart(self._recipients.lacking(self._cursor, error.floors), "too_old")
                else:
                    self._skip(last, "too_old")
            except ROW_ERRORS as error:
                if not is_of_a_row(error):
                    raise
                self._skip(last, "unreadable")  # those of that group are told so by their snapshot

    def _skip(self, last: int, reason: ResetReason) -> None:
        """What comes next can't be read: those that want it begin again, the others go on from where they join."""
        self._restart(self._recipients.joined(self._cursor), reason)
        self._cursor = self._recipients.joining(self._cursor) or last

    async def _read_ready(self, wanted: Wanted, last: int) -> None:
        """Deliver the commits up to `last`, or up to the first of which the database can't make a message."""

        async def fetch(request: ReadyRequest) -> Sequence[Any]:
            return await self._means.archive.ready(request, wanted, self._recipients.stream_cursors, self._claim)

        async with aclosing(prefetch(read_ready(fetch, self._cursor, last, self._find_next))) as pages:
            async for messages, number in pages:
                if self._recipients.wanted(self._cursor) is not wanted:
                    return  # one of them has ended, and is named in these
                if messages:
                    self.subscriber.deliver(Messages(messages))
                self._cursor = number
                await self._drained()

    async def _read_commits(self, last: int, pages_max: int) -> None:
        """Deliver the commits up to `last`, or some pages of them."""
        pages = 0

        async def fetch(request: PageRequest) -> Page:
            if request.seq < 0:  # all before it is delivered, or nobody's: from here it goes on after a failure
                self._cursor = max(self._cursor, request.number - 1)
            return await archive.page(request, recipients.topics, recipients.stream_cursors, self._claim)

        async def find_touched(commit: Commit) -> Collection[Topic]:
            return await archive.touched(commit, list(recipients.topics), recipients.stream_cursors, self._claim)

        archive, recipients = self._means.archive, self._recipients
        topics = recipients.topics
        async for commits in read_after(fetch, self._cursor, last, topics.__contains__, find_touched, self._find_next):
            await self._deliver_all(commits)
            pages += bool(commits)
            if pages == pages_max or not self._recipients:
                return
        self._cursor = max(self._cursor, last)

    async def _find_next(self, number: int, last: int) -> int:
        recipients = self._recipients
        return await self._means.archive.next_wanted(
            number, last, recipients.topics, recipients.stream_cursors, self._claim
        )

    async def _deliver_all(self, commits: Sequence[Commit]) -> None:
        """Deliver these, by and by."""
        left = deque(commits)
        while left:
            await self._drained()
            await self._prepare(left[0])
            async with self._means.turns.slice(self._claim) as has_time:
                with self._means.cork.held():
                    while left:
                        self._tell(left.popleft())
                        if not has_time() or self.subscriber.is_full or (left and _is_large(left[0])):
                            break
        await self._drained()

    async def _prepare(self, commit: Commit) -> None:
        """Do of a large commit's delivery what can be done before, in turns."""
        if not _is_large(commit):
            return
        head = CommitHead(commit.number, commit.at_ms, commit.xid)
        for topic, part in commit.groups.items():
            steps, is_left = prepare(head, topic, part, (self._dialect,)), True
            while is_left:
                async with self._means.turns.slice(self._claim) as has_time:
                    while has_time() and is_left:
                        is_left = next(steps, self) is not self

    def _tell(self, commit: Commit) -> None:
        """Deliver a commit that was read."""
        if commit.truncated:
            told = [each for topic in commit.groups for each in self._recipients.of(topic, commit.number)]
            self._restart(told, "too_large")
            self._cursor = commit.number
        else:
            parts = [Part(topic, part, net_changes_of(part)) for topic, part in commit.groups.items()]
            self._deliver(CommitHead(commit.number, commit.at_ms, commit.xid), parts)

    def _deliver_kept(self, has_time: Callable[[], bool]) -> bool:
        """Whether all that was kept is delivered."""
        with self._means.cork.held():
            while self._kept and has_time():
                head, parts = self._kept.popleft()
                if head.number > self._cursor:
                    self._deliver(head, parts)
        if self._kept:
            return False
        self._kept_bytes = 0
        return True

    def _deliver(self, head: CommitHead, parts: Sequence[Part]) -> None:
        self._recipients.deliver(head, parts)
        self._cursor = head.number

    async def _drained(self) -> None:
        if self.subscriber.is_full:
            await self._means.draining.wait(self.subscriber, self._cursor)

    def _go_live(self) -> None:
        """They have all up to the present: they are live, or some of them, and the others soon."""
        self._cursor = position = self._progress.position
        # What fell behind goes live as a whole: a commit is one message for all that is live.
        subscriptions = list(islice(self._recipients, LIVE_AT_ONCE_MAX if self._is_new else None))
        for subscription in subscriptions:
            self._registry.go_live(subscription)
        self._release(subscriptions)
        if self._is_new:
            for subscription in subscriptions:
                if isinstance(subscription, PositionSubscription):
                    message = subscription.dialect.live(subscription, position, self._progress.epoch)
                    self.subscriber.deliver(message)
        if not self._recipients:
            self.ended.set()

    def _restart(self, subscriptions: Sequence[Subscription], reason: ResetReason) -> None:
        """These need the present state instead."""
        self._release(subscriptions)
        if not self._recipients:
            self.ended.set()
        for subscription in subscriptions:
            self._begin_again(subscription, reason)

    def _release(self, subscriptions: Iterable[Subscription]) -> None:
        """Let go of these."""
        for subscription in subscriptions:
            if self._recipients.remove(subscription):
                self._registry.detach(subscription.topic, self)


def _is_large(commit: Commit) -> bool:
    return any(part.rows >= PREPARED_ROWS_MIN for part in commit.groups.values())
