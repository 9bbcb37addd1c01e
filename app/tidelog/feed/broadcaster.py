"""Hands every commit to those who subscribed, and lets new subscriptions join them without a gap.

All of it runs on one event loop and, but for reading what is stored, without waiting: between two commits the
world stands still, and a subscription goes live exactly between two of them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol
from weakref import WeakValueDictionary

from tidelog.errors import TidelogError
from tidelog.feed.audience import Channel, Follower, Touched, deliver
from tidelog.feed.budget import Budget
from tidelog.feed.cork import Cork, UnflushedError
from tidelog.feed.errands import Errands
from tidelog.feed.failures import Failures, Unserved, UnservedError
from tidelog.feed.opening import Opening
from tidelog.feed.openings import Openings
from tidelog.feed.overlay import Overlay
from tidelog.feed.patience import Patience
from tidelog.feed.pump import Pump
from tidelog.feed.resume import Resumption
from tidelog.feed.spool import Spooling
from tidelog.feed.status import Status
from tidelog.feed.subscription import (
    CommitHead,
    PositionSubscription,
    Subscriber,
    Subscription,
    SyncSubscription,
    net_changes_of,
    prepare,
)
from tidelog.feed.sync import Syncing, SyncOpening
from tidelog.feed.trouble import Troubles
from tidelog.feed.turns import Turns, in_slices
from tidelog.model.change import Commit, Topic
from tidelog.model.position import ResetReason
from tidelog.settings import Settings
from tidelog.store.archive import Archive
from tidelog.store.log import Head
from tidelog.store.snapshot import SnapshotHead

COMMIT_SLOT_MS = 0.01  # two commits are at least so far apart (app/tidelog/store/sql/number_commits.sql)


class Starter(Protocol):
    """What works on letting subscriptions go live."""

    def drop(self, subscription: Subscription) -> None:
        """This one has ended meanwhile."""
        ...


class Broadcaster:
    """The subscriptions of this process. `position` and `at_ms` are those of the last published commit."""

    def __init__(self, archive: Archive, settings: Settings) -> None:
        self.archive = archive
        self.cork = Cork()
        self.failures = Failures()
        self.troubles = Troubles()
        patience = Patience(settings.subscribe_patience_seconds, self, self.troubles)
        drain_timeout_seconds = settings.socket_drain_timeout_seconds
        self.errands = Errands(drain_timeout_seconds, patience, self.troubles, self.refuse, self._fail_told)
        self.turns = Turns()
        self.openings = Openings()
        self.budget: Budget = Budget(
            settings.snapshot_memory_max_bytes,
            settings.snapshot_disk_max_bytes,
            settings.subscribe_patience_seconds,
        )
        self.position = 0
        self.at_ms = 0.0
        self.epoch = ""
        self.frontier = 0  # the last commit that was read in part; rows of it may have been dropped before one attached
        self.joins = 0  # how often the reader was connected
        self._settings = settings
        self._channels: dict[Topic, Channel] = {}
        self._starting: dict[Subscription, Starter] = {}
        self._overlays: set[Overlay] = set()
        self._syncings: dict[tuple[Topic, str | None], Syncing] = {}
        # Those that are read by nobody any more go with the garbage.
        self._spoolings: WeakValueDictionary[tuple[Topic, str | None], Spooling] = WeakValueDictionary()
        self._full: set[Subscriber] = set()
        self._resumptions: dict[Subscriber, Resumption] = {}  # of connections that have one at work
        self._behind: dict[Subscriber, Pump] = {}  # whose live subscriptions fell behind
        self._live: dict[Subscriber, set[Subscription]] = {}  # every connection, with what is live of it
        self._status = Status(self, self._live.keys)
        self._moved = asyncio.Event()
        self._interest = asyncio.Event()

    # What the reader calls: commits, in the order of their numbers, each once.

    def start(self, position: int, at_ms: float) -> None:
        """The feed begins at this position: what was before is in every snapshot. Only while it is deserted."""
        self.position = self.frontier = position
        self.at_ms = at_ms
        self._tell_moved()

    def go_on(self, head: Head) -> None:
        """The reader is connected again, and all that was published is in the log that it found."""
        self.epoch = head.epoch
        # What another process published in the epoch before, and is lost, is older than what is sent from here on.
        self.at_ms = max(self.at_ms, head.began_at_ms)
        for overlay in list(self._overlays):  # what is being read may show what a crash of the database has undone
            overlay.overflow()
        self._tell_joined()

    def go_back(self, head: Head) -> None:
        """The log that it found lacks what was published (as a promoted replica did): begin again at its head.

        Nobody can go on, nor what is being read for those on their way, which may show what has been undone.
        """
        self.epoch = head.epoch
        self.position = self.frontier = head.number
        # Motia's clients drop what is not newer than what they have.
        self.at_ms = max(self.at_ms + COMMIT_SLOT_MS, head.at_ms)
        starting = list(self._starting.items())
        self._starting.clear()
        for subscription, starter in starting:
            self._drop(subscription, starter)
        self._spoolings.clear()
        self._begin_again(list(self._channels), "epoch")
        for subscription, _ in starting:
            self.begin_anew(subscription, "epoch")
        self._tell_joined()

    def begin_epoch(self, epoch: str) -> None:
        """The log goes on in this epoch. Clients that come back with it need not begin again."""
        if epoch != self.epoch:
            self.epoch = epoch
            self._status.tell_everybody()

    @property
    def furthest(self) -> int:
        """The last commit that somebody may have been given: a pump reads in the log what the reader has in part."""
        return max(self.position, self.frontier)

    @property
    def is_interrupted(self) -> bool:
        """Whether the feed stands still for want of a database."""
        return self._status.is_interrupted

    @property
    def is_deserted(self) -> bool:
        """Whether nobody is subscribed, or on the way to it. The sequencer's thread asks, too."""
        return not self._channels

    async def wait_for_interest(self, seconds: float) -> None:
        """Return when somebody subscribes, or after so long."""
        self._interest.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._interest.wait()

    @property
    def wanted(self) -> Collection[Topic]:
        """What is wanted, at each moment."""
        return self._channels.keys()

    async def prepare(self, commit: Commit) -> None:
        """Do of a large commit's delivery what can be done before `publish`, with everybody else's turns in between."""
        if commit.truncated:
            return
        head = CommitHead(commit.number, commit.at_ms)
        for topic, part in commit.groups.items():
            channel = self._channels.get(topic)
            if channel is not None:
                with contextlib.suppress(Exception):  # whom it concerns is found out when it is delivered
                    await in_slices(prepare(head, topic, part, list(channel.audiences)))

    def publish(self, commits: Sequence[Commit]) -> None:
        """Deliver the next commits. Whoever can't be served, for a fault of ours, is closed: the feed goes on."""
        try:
            with self.cork.held() if _meet_again(commits) else contextlib.nullcontext():
                for commit in commits:
                    try:
                        self._publish(commit)
                    except Exception as error:  # contained nowhere else, so it isn't known who has been served
                        self._fail_topics(commit.groups, error)
                    self.position, self.at_ms = commit.number, commit.at_ms
        except UnflushedError as error:
            unflushed = error.unflushed
            self.fail({one: unflushed[one.outlet] for one in self._live if one.outlet in unflushed})

    def _publish(self, commit: Commit) -> None:
        if self._full:
            self._let_fall_behind()
        if commit.number != self.position + 1:
            # This process slept for so long that commits were removed before it read them.
            self._begin_again(list(self._channels), "too_old")
        touched = []
        for topic, part in commit.groups.items():
            channel = self._channels.get(topic)
            if channel is None:
                continue
            if commit.truncated or topic in commit.unreadable:
                self._begin_again([topic], "too_large" if commit.truncated else "unreadable")
                continue
            try:
                changes = net_changes_of(part)
                for follower in channel.followers:
                    try:
                        follower.keep(commit, topic, part, changes)
                    except Exception as error:
                        self._overflow(follower, error)
            except Exception as error:
                self._fail_topics([topic], error)
                continue
            if channel.live:
                touched.append(Touched(topic, channel, part, changes))
        if touched:
            try:
                deliver(CommitHead(commit.number, commit.at_ms), touched)
            except UnservedError as error:
                self.fail(error.unserved)

    def settle(self) -> None:
        """Let those go on that wait for the feed; called between commits."""
        for overlay in list(self._overlays):
            overlay.check(self.position)
        self._tell_moved()

    def tell_status(self, *, interrupted: bool) -> None:
        """Tell every connection, if it is news, that the feed stands still for want of a database, or goes on."""
        self._status.tell(interrupted=interrupted)

    # What connections call.

    def subscribe(self, subscription: Subscription) -> None:
        """Bring the subscription to the present, and then deliver every commit: nothing missed, nothing repeated."""
        if subscription.subscriber not in self._live:
            return  # it could not be served, and is being closed
        if isinstance(subscription, SyncSubscription):
            self._sync(subscription)
        elif isinstance(subscription, PositionSubscription):
            if subscription.since is None:
                self._open(subscription, not_before=0)
            else:
                resumption = self._starting[subscription] = self._resumption(subscription.subscriber)
                resumption.resume(subscription, subscription.since)

    def unsubscribe(self, subscription: Subscription) -> bool:
        """Send no more for this subscription; False, and nothing happens, if it has ended already."""
        starter = self._starting.pop(subscription, None)
        if starter is not None:
            starter.drop(subscription)
            return True
        channel = self._channels.get(subscription.topic)
        if channel is None or subscription not in channel.live:
            return False
        self._leave([subscription])
        return True

    def note_full(self, subscriber: Subscriber) -> None:
        """More waits to be sent to this subscriber than should; unless it drains soon it reads from the log."""
        self._full.add(subscriber)

    def enter(self, subscriber: Subscriber) -> None:
        """A new connection; before it subscribes."""
        self._live[subscriber] = set()
        try:
            self._status.enter(subscriber)
        except Exception as error:
            self.fail({subscriber: error})

    def leave(self, subscriber: Subscriber, subscriptions: Iterable[Subscription]) -> None:
        """The connection has ended, and all its subscriptions with it; nothing happens if it has left already."""
        for subscription in subscriptions:
            starter = self._starting.pop(subscription, None)
            if starter is not None:
                self._drop(subscription, starter)
        self._leave(self._live.get(subscriber, ()))
        self._live.pop(subscriber, None)
        self._behind.pop(subscriber, None)
        self._resumptions.pop(subscriber, None)
        self._full.discard(subscriber)
        self._status.leave(subscriber)

    def fail(self, unserved: Mapping[Subscriber, Exception], *, is_told: bool = False) -> None:
        """These could not be served, for a fault of ours: close them, so that they come back, and forget them.

        `is_told`: the log has it already.
        """
        unserved = {subscriber: error for subscriber, error in unserved.items() if subscriber in self._live}
        if not unserved:
            return
        self.failures.note_unserved(unserved, is_told=is_told)
        starting = [subscription for subscription in self._starting if subscription.subscriber in unserved]
        for subscriber in unserved:
            try:
                subscriber.fail()
            except Exception as error:
                self.failures.note(error, "a connection can't even be closed, and is forgotten")
            self.leave(subscriber, [one for one in starting if one.subscriber is subscriber])

    def _fail_told(self, unserved: Mapping[Subscriber, Exception]) -> None:
        self.fail(unserved, is_told=True)

    async def close(self) -> None:
        await self.errands.close()

    # What those on their way call.

    def attach(self, topic: Topic, follower: Follower) -> None:
        self._channels.setdefault(topic, Channel()).followers.add(follower)
        self._interest.set()
        if isinstance(follower, Overlay):
            self._overlays.add(follower)

    def detach(self, topic: Topic, follower: Follower) -> None:
        if isinstance(follower, Overlay):
            self._overlays.discard(follower)
        channel = self._channels.get(topic)
        if channel is not None:
            channel.followers.discard(follower)
            self._close_if_deserted(topic, channel)

    def expect(self, overlay: Overlay, head: SnapshotHead) -> None:
        """The overlay's snapshot was begun at this head."""
        overlay.expect(head)
        overlay.check(self.position)

    def go_live(self, subscription: Subscription) -> None:
        self._starting.pop(subscription, None)
        live = self._live.get(subscription.subscriber)
        if live is None:
            return  # it could not be served, and is being closed
        channel = self._channels.setdefault(subscription.topic, Channel())
        channel.go_live(subscription, subscription.subscriber.dialect)
        live.add(subscription)

    def reset(self, subscription: PositionSubscription, reason: ResetReason) -> None:
        """Begin again with a snapshot, and tell why.

        It is told before anything else can be: messages behind it move the positions of live subscriptions.
        """
        dialect = subscription.dialect
        subscription.subscriber.deliver(dialect.reset(subscription, reason, self.position, self.epoch))
        self._open(subscription, not_before=self.position)

    def begin_anew(self, subscription: Subscription, reason: ResetReason) -> None:
        """It can't go on from where it is: bring it to the present state, if it can be told why, with the reason."""
        if subscription.subscriber not in self._live:
            return  # it could not be served, and is being closed
        try:
            if isinstance(subscription, PositionSubscription):
                self.reset(subscription, reason)
            else:
                self.subscribe(subscription)
        except Exception as error:
            self.fail({subscription.subscriber: error})

    def pump(self, subscription: Subscription, cursor: int) -> None:
        """Deliver to this subscription, which isn't live yet, from after `cursor` on."""
        self._resumption(subscription.subscriber).go_on({subscription: cursor})

    def note_starting(self, subscriptions: Iterable[Subscription], starter: Starter) -> None:
        """Who works on these from here on."""
        self._starting |= dict.fromkeys(subscriptions, starter)

    def behind(self, subscriber: Subscriber) -> Pump | None:
        """Who brings the subscriptions of this connection that have been live to the present again, if any are."""
        return self._behind.get(subscriber)

    def tell_missed_status(self, subscriber: Subscriber) -> None:
        """It is at the present again."""
        self._status.tell_missed(subscriber)

    def spooling(self, subscription: PositionSubscription, not_before: int) -> Spooling:
        """A snapshot for this subscription, of `not_before` or later, perhaps one that is being read for others."""
        key = (subscription.topic, subscription.item_id)
        spooling = self._spoolings.get(key)
        if spooling is None or not spooling.is_shareable(not_before):
            spooling = Spooling(self, subscription, self._settings.snapshot_size_max_bytes)
            self._spoolings[key] = spooling
        return spooling

    def syncing(self, topic: Topic, item_id: str | None) -> Syncing:
        """The present state of this, for those without positions, perhaps one that is being read for others."""
        key = (topic, item_id)
        syncing = self._syncings.get(key)
        if syncing is None:
            syncing = self._syncings[key] = Syncing(self, *key, self._settings.sync_size_max_bytes)
            syncing.start()
        return syncing

    def end_syncing(self, topic: Topic, item_id: str | None, syncing: Syncing) -> None:
        if self._syncings.get((topic, item_id)) is syncing:
            del self._syncings[topic, item_id]

    async def reached(self, position: int, joins: int) -> bool:
        """Wait until the feed is at `position` or further, and answer True.

        False if the reader has been connected anew since `joins` was read: perhaps to a log that has no such position.
        """
        while self.joins == joins and self.position < position:
            self._interest.set()
            await self._moved.wait()
        return self.joins == joins

    def refuse(self, subscription: Subscription, error: TidelogError) -> None:
        """End a subscription, live or on its way, that can't be had; nothing happens if it has ended already."""
        if self.unsubscribe(subscription):
            try:
                subscription.subscriber.refuse(subscription, error)
            except Exception as failure:  # it may be one of many that are told
                self.fail({subscription.subscriber: failure})

    def _sync(self, subscription: SyncSubscription) -> None:
        opening = self._starting[subscription] = SyncOpening(self, subscription)
        opening.start()

    def _resumption(self, subscriber: Subscriber) -> Resumption:
        resumption = self._resumptions.get(subscriber)
        if resumption is None:
            resumption = Resumption(self, subscriber, self._forget_resumption)
            self._resumptions[subscriber] = resumption
        return resumption

    def _forget_resumption(self, resumption: Resumption) -> None:
        if self._resumptions.get(resumption.subscriber) is resumption:
            del self._resumptions[resumption.subscriber]

    def _open(self, subscription: PositionSubscription, *, not_before: int) -> None:
        opening = Opening(self, subscription, not_before)
        self._starting[subscription] = opening
        opening.start()

    def _tell_joined(self) -> None:
        self.joins += 1
        self._tell_moved()

    def _tell_moved(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    def _leave(self, subscriptions: Collection[Subscription]) -> None:
        """Take live subscriptions out."""
        for subscription in list(subscriptions):
            channel = self._channels[subscription.topic]
            channel.leave(subscription, subscription.subscriber.dialect)
            self._live[subscription.subscriber].discard(subscription)
            self._close_if_deserted(subscription.topic, channel)

    def _drop(self, subscription: Subscription, starter: Starter) -> None:
        try:
            starter.drop(subscription)
        except Exception as error:
            self.failures.note(error, "what served a subscription could not be told that this has ended")

    def _overflow(self, follower: Follower, error: Exception) -> None:
        """It could not take what was published, so it is to read that."""
        self.failures.note(error, "what was published could not be kept, and is read")
        follower.overflow()

    def _fail_topics(self, topics: Collection[Topic], error: Exception) -> None:
        """Nobody who subscribed to these can be served."""
        live = [one for topic in topics if topic in self._channels for one in self._channels[topic].live]
        starting = [one for one in self._starting if one.topic in topics]
        self.fail({one.subscriber: error for one in (*live, *starting)})

    def _begin_again(self, topics: Sequence[Topic], reason: ResetReason) -> None:
        """These can't be told what happened: their subscribers get the present state instead."""
        for topic in topics:
            channel = self._channels.get(topic)
            if channel is None:
                continue  # with those who could not be served
            for follower in list(channel.followers):
                follower.overflow()
            again = list(channel.live)
            self._leave(again)
            for subscription in again:
                self.begin_anew(subscription, reason)

    def _let_fall_behind(self) -> None:
        """Those that are full read from the log from here on, at their own pace."""
        full, self._full = self._full, set()
        unserved: Unserved = {}
        for subscriber in full:
            try:
                self._divert(subscriber)
            except Exception as error:
                unserved[subscriber] = error
        self.fail(unserved)

    def _divert(self, subscriber: Subscriber) -> None:
        behind = list(self._live.get(subscriber, ()))
        if not subscriber.is_full:
            self._status.tell_missed(subscriber)
        if not behind or not subscriber.is_full:
            return
        self._leave(behind)
        cursors = dict.fromkeys(behind, self.position)
        pump = self._behind[subscriber] = Pump(self, subscriber, cursors, self._note_caught_up, is_new=False)
        self.note_starting(behind, pump)
        pump.start()

    def _note_caught_up(self, pump: Pump) -> None:
        if self._behind.get(pump.subscriber) is pump:
            del self._behind[pump.subscriber]

    def _close_if_deserted(self, topic: Topic, channel: Channel) -> None:
        if channel.is_deserted and self._channels.get(topic) is channel:
            del self._channels[topic]


def _meet_again(commits: Sequence[Commit]) -> bool:
    """Whether two of them touch one group: its sockets then get both in one write. Else gathering costs for nothing."""
    seen: set[Topic] = set()
    for commit in commits:
        if not seen.isdisjoint(commit.groups):
            return True
        seen.update(commit.groups)
    return False
