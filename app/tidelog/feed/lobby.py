"""Lets subscriptions in, takes in connections that fell behind, and sends away: the one place of reset and refusal.

It starts the ways of catching up, and acts on what comes of them. Who is live is the registry's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping

from tidelog.errors import TidelogError
from tidelog.feed.arrivals import Arrivals, Outcomes, Replays
from tidelog.feed.catch_up.full_sync import FullSyncs, FullSyncStage
from tidelog.feed.catch_up.means import Means
from tidelog.feed.catch_up.openings import Openings
from tidelog.feed.catch_up.shared_snapshot import SharedSnapshots, send_snapshot
from tidelog.feed.failures import Failures, Unserved
from tidelog.feed.fan_out import Follower
from tidelog.feed.patience import Patience
from tidelog.feed.registry import Stage
from tidelog.feed.status import Status
from tidelog.feed.subscription import PositionSubscription, Subscriber, Subscription, SyncSubscription
from tidelog.feed.tasks import Tasks
from tidelog.model.change import Topic
from tidelog.model.position import ResetReason


class Lobby:
    """Everybody of a feed who isn't live, and the way out for all."""

    def __init__(
        self,
        means: Means,
        status: Status,
        tasks: Tasks,
        patience: Patience,
        failures: Failures,
        *,
        sync_size_max_bytes: int,
        snapshot_size_max_bytes: int,
    ) -> None:
        self._means = means
        self._progress, self._registry = means.progress, means.registry
        self._status = status
        self._tasks = tasks
        self._patience = patience
        self._failures = failures
        self._openings = Openings()
        self._full_syncs = FullSyncs(means, tasks, patience, sync_size_max_bytes)
        self._snapshots = SharedSnapshots(means, snapshot_size_max_bytes)
        self._replays = Replays(means, tasks, patience, Outcomes(self.begin_again, self.refuse, status.tell_missed))
        self._arrivals: dict[Subscriber, Arrivals] = {}  # of connections that have some

    # The way in.

    def admit(self, subscription: Subscription) -> None:
        """Bring the subscription to the present; then it is live."""
        if isinstance(subscription, SyncSubscription):
            self._sync(subscription)
        elif isinstance(subscription, PositionSubscription):
            if subscription.since is None:
                self._begin_with_snapshot(subscription, not_before=0)
            else:
                self._arrivals_of(subscription.subscriber).resume(subscription, subscription.since)

    def begin_again(self, subscription: Subscription, reason: ResetReason) -> None:
        """It can't go on from where it is: bring it to the present state, if it can be told why, with the reason."""
        if subscription.subscriber not in self._registry:
            return  # it could not be served, and is being closed
        try:
            if isinstance(subscription, PositionSubscription):
                self._reset(subscription, reason)
            else:
                self.admit(subscription)
        except Exception as error:
            self.fail({subscription.subscriber: error})

    def begin_topics_again(self, topics: Iterable[Topic], reason: ResetReason) -> None:
        """Nobody can be told what happened in these: their subscribers get the present state instead."""
        for topic in topics:
            channel = self._registry.channel(topic)
            if channel is None:
                continue  # with those who could not be served
            for follower in list(channel.followers):
                follower.overflow()
            again = list(channel.live)
            self._registry.end_live(again)
            for subscription in again:
                self.begin_again(subscription, reason)

    def begin_all_again(self) -> None:
        """What was published is lost: nobody can go on, nor what is read for those on their way, which may show it."""
        on_their_way = list(self._registry.on_their_way)
        for subscription in on_their_way:
            self._drop(subscription)
        self._snapshots.forget()
        self.begin_topics_again(list(self._registry.topics), "epoch")
        for subscription in on_their_way:
            self.begin_again(subscription, "epoch")

    def take_in_full(self) -> None:
        """Those that are full read the log from here on, at their own pace; called before a commit is delivered."""
        full, self._registry.full = self._registry.full, set()
        unserved: Unserved = {}
        for subscriber in full:
            try:
                self._take_in(subscriber)
            except Exception as error:
                unserved[subscriber] = error
        self.fail(unserved)

    # The way out.

    def cancel(self, subscription: Subscription) -> bool:
        """Send no more for this subscription; False, and nothing happens, if it has ended already."""
        stage = self._registry.take_stage(subscription)
        if stage is not None:
            stage.drop(subscription)
        elif self._registry.is_live(subscription):
            self._registry.end_live([subscription])
        else:
            return False
        return True

    def refuse(self, subscription: Subscription, error: TidelogError) -> None:
        """End a subscription, live or on its way, that can't be had; nothing happens if it has ended already."""
        if self.cancel(subscription):
            try:
                subscription.subscriber.refuse(subscription, error)
            except Exception as failure:  # it may be one of many that are told
                self.fail({subscription.subscriber: failure})

    def leave(self, subscriber: Subscriber, subscriptions: Iterable[Subscription]) -> None:
        """The connection has ended, and all its subscriptions with it; nothing happens if it has left already."""
        for subscription in subscriptions:
            self._drop(subscription)
        self._registry.leave(subscriber)
        self._arrivals.pop(subscriber, None)
        self._status.leave(subscriber)

    def fail(self, unserved: Mapping[Subscriber, Exception], *, is_told: bool = False) -> None:
        """These could not be served, for a fault of ours: close them, so that they come back, and forget them.

        `is_told`: the log has it already.
        """
        unserved = {subscriber: error for subscriber, error in unserved.items() if subscriber in self._registry}
        if not unserved:
            return
        self._failures.note_unserved(unserved, is_told=is_told)
        on_their_way = [one for one in self._registry.on_their_way if one.subscriber in unserved]
        for subscriber in unserved:
            try:
                subscriber.fail()
            except Exception as error:
                self._failures.note(error, "a connection can't even be closed, and is forgotten")
            self.leave(subscriber, [one for one in on_their_way if one.subscriber is subscriber])

    def fail_topics(self, topics: Collection[Topic], error: Exception) -> None:
        """Nobody who subscribed to these can be served."""
        live = [one for topic in topics if (channel := self._registry.channel(topic)) for one in channel.live]
        on_their_way = [one for one in self._registry.on_their_way if one.topic in topics]
        self.fail({one.subscriber: error for one in (*live, *on_their_way)})

    def overflow(self, follower: Follower, error: Exception) -> None:
        """It could not take what was published, so it is to read that."""
        self._failures.note(error, "what was published could not be kept, and is read")
        follower.overflow()

    def _sync(self, subscription: SyncSubscription) -> None:
        stage = FullSyncStage(subscription)
        self._registry.note_stage([subscription], stage)

        async def run() -> None:
            failed = await stage.run(self._means, self._full_syncs, self._openings)
            if failed is not None:
                self.fail({subscription.subscriber: failed.error})

        stage.task = self._tasks.spawn(run(), lambda: [subscription])

    def _reset(self, subscription: PositionSubscription, reason: ResetReason) -> None:
        """It is told before anything else can be: messages behind it move the positions of live subscriptions."""
        position = self._progress.position
        message = subscription.dialect.reset(subscription, reason, position, self._progress.epoch)
        subscription.subscriber.deliver(message)
        self._begin_with_snapshot(subscription, not_before=position)

    def _begin_with_snapshot(self, subscription: PositionSubscription, *, not_before: int) -> None:
        async def send() -> None:
            position = await send_snapshot(
                subscription, not_before, self._snapshots, self._openings, self._means.draining
            )
            self._arrivals_of(subscription.subscriber).go_on({subscription: position})

        stage = _OneTask()
        self._registry.note_stage([subscription], stage)
        stage.task = self._tasks.spawn(self._patience.retrying(send, subscription.topic.stream), lambda: [subscription])

    def _take_in(self, subscriber: Subscriber) -> None:
        """All that is live of it leaves at once, before the next commit is delivered."""
        behind = list(self._registry.live_of(subscriber))
        if not subscriber.is_full:
            self._status.tell_missed(subscriber)
        if not behind or not subscriber.is_full:
            return
        self._registry.end_live(behind)
        replay = self._replays.start(subscriber, dict.fromkeys(behind, self._progress.position), is_new=False)
        self._registry.fall_behind(subscriber, replay)
        self._registry.note_stage(behind, replay)

    def _arrivals_of(self, subscriber: Subscriber) -> Arrivals:
        arrivals = self._arrivals.get(subscriber)
        if arrivals is None:
            arrivals = self._arrivals[subscriber] = Arrivals(self._replays, subscriber, self._forget)
        return arrivals

    def _forget(self, arrivals: Arrivals) -> None:
        if self._arrivals.get(arrivals.subscriber) is arrivals:
            del self._arrivals[arrivals.subscriber]

    def _drop(self, subscription: Subscription) -> None:
        """Whatever works on it must not keep others from being dropped."""
        stage = self._registry.take_stage(subscription)
        if stage is None:
            return
        try:
            stage.drop(subscription)
        except Exception as error:
            self._failures.note(error, "what served a subscription could not be told that this has ended")


class _OneTask(Stage):
    """The stage of a subscription that has a task of its own."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None

    def drop(self, subscription: Subscription) -> None:
        """Part of the registry's Stage."""
        if self.task is not None and self.task is not asyncio.current_task():
            self.task.cancel()
