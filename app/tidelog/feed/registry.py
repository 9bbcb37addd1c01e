"""Who is connected and who subscribed to what: channels of topics, stages of subscriptions, records of connections.

It knows neither how a subscription gets live nor what it is told.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable, KeysView, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from tidelog.feed.fan_out import Channel, Follower
from tidelog.feed.subscription import Subscriber, Subscription
from tidelog.model.change import Topic


class Stage(Protocol):
    """What works on letting subscriptions go live."""

    def drop(self, subscription: Subscription) -> None:
        """This one has ended meanwhile."""
        ...


class Behind(Protocol):
    """Who brings subscriptions that have been live to the present again."""

    @property
    def cursor(self) -> int:
        """All up to it is delivered."""
        ...

    @property
    def ended(self) -> asyncio.Event:
        """Set when they are live again, or over."""
        ...


class SnapshotFollower(Follower, Protocol):
    """A follower that waits for the feed to pass what a snapshot shows."""

    def check(self, position: int) -> None:
        """The feed is at this position."""
        ...


@dataclass(eq=False, slots=True)
class _Connection:
    live: set[Subscription] = field(default_factory=set)
    behind: Behind | None = None  # for what was live of it, if it fell behind


class Registry:
    """All of a process."""

    def __init__(self, wanted: asyncio.Event | None = None) -> None:
        """`wanted` is set when somebody subscribes."""
        self.full: set[Subscriber] = set()  # to which more waits to be sent than should
        self._wanted = wanted or asyncio.Event()
        self._channels: dict[Topic, Channel] = {}
        self._stages: dict[Subscription, Stage] = {}
        self._connections: dict[Subscriber, _Connection] = {}
        self._snapshot_followers: set[SnapshotFollower] = set()

    # Connections.

    @property
    def subscribers(self) -> Collection[Subscriber]:
        return self._connections.keys()

    def __contains__(self, subscriber: Subscriber) -> bool:
        """Whether it is connected. One that could not be served isn't any more, and is being closed."""
        return subscriber in self._connections

    def enter(self, subscriber: Subscriber) -> None:
        self._connections[subscriber] = _Connection()

    def leave(self, subscriber: Subscriber) -> None:
        """It has ended, and all that is live of it; nothing happens if it has left already."""
        self.end_live(self.live_of(subscriber))
        self._connections.pop(subscriber, None)
        self.full.discard(subscriber)

    def behind(self, subscriber: Subscriber) -> Behind | None:
        """Who brings the subscriptions of this connection that have been live to the present again, if any are."""
        connection = self._connections.get(subscriber)
        behind = None if connection is None else connection.behind
        return None if behind is None or behind.ended.is_set() else behind

    def fall_behind(self, subscriber: Subscriber, behind: Behind) -> None:
        """What was live of this connection is brought to the present by `behind` from here on."""
        self._connections[subscriber].behind = behind

    # Topics.

    @property
    def topics(self) -> KeysView[Topic]:
        """Those of which somebody wants to be told, at each moment."""
        return self._channels.keys()

    def channel(self, topic: Topic) -> Channel | None:
        return self._channels.get(topic)

    def attach(self, topic: Topic, follower: Follower) -> None:
        """What is published in the topic from here on is kept by this follower."""
        self._channels.setdefault(topic, Channel()).followers.add(follower)
        self._wanted.set()

    def detach(self, topic: Topic, follower: Follower) -> None:
        """Nothing happens if it isn't attached."""
        channel = self._channels.get(topic)
        if channel is not None:
            channel.followers.discard(follower)
            self._close_if_deserted(topic, channel)

    def attach_to_snapshot(self, topic: Topic, follower: SnapshotFollower) -> None:
        """As `attach`; and it is told where the feed is, by `check`."""
        self._snapshot_followers.add(follower)
        self.attach(topic, follower)

    def detach_from_snapshot(self, topic: Topic, follower: SnapshotFollower) -> None:
        self._snapshot_followers.discard(follower)
        self.detach(topic, follower)

    @property
    def snapshot_followers(self) -> list[SnapshotFollower]:
        """Those of now: they may leave while they are gone through."""
        return list(self._snapshot_followers)

    # Subscriptions.

    @property
    def on_their_way(self) -> Mapping[Subscription, Stage]:
        """Those that aren't live, or not any more."""
        return self._stages

    def note_stage(self, subscriptions: Iterable[Subscription], stage: Stage) -> None:
        """Who works on these from here on."""
        self._stages |= dict.fromkeys(subscriptions, stage)

    def take_stage(self, subscription: Subscription) -> Stage | None:
        """Who works on it, if anybody does; from here on nobody."""
        return self._stages.pop(subscription, None)

    def live_of(self, subscriber: Subscriber) -> Collection[Subscription]:
        """What of this connection is told of each commit as it is published."""
        connection = self._connections.get(subscriber)
        return () if connection is None else connection.live

    def live_counts(self) -> Mapping[str, int]:
        """How many are live, by stream."""
        counts: Counter[str] = Counter()
        for topic, channel in self._channels.items():
            if channel.live:
                counts[topic.stream] += len(channel.live)
        return counts

    def is_live(self, subscription: Subscription) -> bool:
        channel = self._channels.get(subscription.topic)
        return channel is not None and subscription in channel.live

    def go_live(self, subscription: Subscription) -> None:
        """From here on it is told of each commit; nothing happens if its connection is being closed."""
        self._stages.pop(subscription, None)
        connection = self._connections.get(subscription.subscriber)
        if connection is None:
            return
        channel = self._channels.setdefault(subscription.topic, Channel())
        channel.go_live(subscription, subscription.subscriber.dialect)
        connection.live.add(subscription)

    def end_live(self, subscriptions: Collection[Subscription]) -> None:
        """Take live subscriptions out."""
        for subscription in list(subscriptions):
            channel = self._channels[subscription.topic]
            channel.leave(subscription, subscription.subscriber.dialect)
            self._connections[subscription.subscriber].live.discard(subscription)
            self._close_if_deserted(subscription.topic, channel)

    def _close_if_deserted(self, topic: Topic, channel: Channel) -> None:
        if channel.is_deserted and self._channels.get(topic) is channel:
            del self._channels[topic]
