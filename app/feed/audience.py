"""Who is live on a topic: for each dialect, the connections, and what each of them wants of it."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from app.feed.subscription import (
    CommitHead,
    Dialect,
    Messages,
    Outlet,
    Piece,
    Share,
    Subscriber,
    Subscription,
)
from app.model.change import Change, Commit, GroupCommit, Topic


class Interest:
    """One connection's live subscriptions to one topic. Equal keys get equal bytes. It doesn't change."""

    __slots__ = ("item_ids", "key", "subscriptions")

    def __init__(self, subscriptions: Sequence[Subscription], dialect: Dialect) -> None:
        self.subscriptions = subscriptions
        self.key = dialect.key(subscriptions)
        ids = {subscription.item_id for subscription in subscriptions}
        self.item_ids = None if None in ids else ids  # None: the whole group

    def share(self, pieces: Sequence[Piece]) -> Share:
        """What of the pieces is for this connection."""
        if self.item_ids is not None:
            pieces = [piece for piece in pieces if piece.item_id in self.item_ids]
        return Share(self.subscriptions, pieces)


class Cohort:
    """Connections that want the whole group, under one key: each gets what `interest`, the first one's, gets."""

    __slots__ = ("interest", "outlets", "write_all")

    def __init__(self, interest: Interest, outlet: Outlet) -> None:
        self.interest = interest
        self.write_all = outlet.write_all
        self.outlets: dict[Subscriber, Outlet] = {}


class Audience:
    """The live subscriptions of one dialect to one topic. A connection is in it once, however many it has."""

    __slots__ = ("_cohorts", "_dialect", "_interests", "_items")

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._interests: dict[Subscriber, Interest] = {}
        self._cohorts: dict[Hashable, Cohort] = {}  # those who want the group
        self._items: dict[str | None, dict[Subscriber, Interest]] = {}  # those who want only items, by item

    def __bool__(self) -> bool:
        return bool(self._interests)

    def add(self, subscription: Subscription) -> None:
        present = self._interests.get(subscription.subscriber)
        others = present.subscriptions if present is not None else ()
        self._file(subscription.subscriber, [*others, subscription])

    def remove(self, subscription: Subscription) -> None:
        present = self._interests[subscription.subscriber].subscriptions
        self._file(subscription.subscriber, [other for other in present if other is not subscription])

    def deliver(self, head: CommitHead, pieces: Sequence[Piece]) -> None:
        """To everybody who wants one of these pieces, encoded once for each key."""
        for cohort in self._cohorts.values():
            messages = self._dialect.commit(head, (cohort.interest.share(pieces),))
            cohort.write_all(cohort.outlets.values(), messages)
        encoded: dict[Hashable, Messages] = {}
        for subscriber, interest in self._reached_by_item(pieces).items():
            if interest.key not in encoded:
                encoded[interest.key] = self._dialect.commit(head, (interest.share(pieces),))
            subscriber.deliver(encoded[interest.key])

    def reached(self, pieces: Sequence[Piece]) -> Iterator[tuple[Subscriber, Interest]]:
        """Everybody who wants one of these pieces, each once."""
        for cohort in self._cohorts.values():
            for subscriber in cohort.outlets:
                yield subscriber, cohort.interest
        yield from self._reached_by_item(pieces).items()

    def _reached_by_item(self, pieces: Sequence[Piece]) -> dict[Subscriber, Interest]:
        reached: dict[Subscriber, Interest] = {}
        if self._items:
            for piece in pieces:
                if piece.item_id in self._items:
                    reached |= self._items[piece.item_id]
        return reached

    def _file(self, subscriber: Subscriber, subscriptions: Sequence[Subscription]) -> None:
        """Put a connection where its pieces are looked up, and nowhere else."""
        if subscriber in self._interests:
            self._unfile(subscriber, self._interests.pop(subscriber))
        if not subscriptions:
            return
        interest = self._interests[subscriber] = Interest(subscriptions, self._dialect)
        if interest.item_ids is None:
            key = _cohort_key(interest, subscriber)
            cohort = self._cohorts.get(key)
            if cohort is None:
                cohort = self._cohorts[key] = Cohort(interest, subscriber.outlet)
            cohort.outlets[subscriber] = subscriber.outlet
        else:
            for id in interest.item_ids:
                self._items.setdefault(id, {})[subscriber] = interest

    def _unfile(self, subscriber: Subscriber, interest: Interest) -> None:
        if interest.item_ids is None:
            key = _cohort_key(interest, subscriber)
            cohort = self._cohorts[key]
            del cohort.outlets[subscriber]
            if not cohort.outlets:
                del self._cohorts[key]
        else:
            for id in interest.item_ids:
                del self._items[id][subscriber]
                if not self._items[id]:
                    del self._items[id]


def _cohort_key(interest: Interest, subscriber: Subscriber) -> Hashable:
    """Equal ones get equal bytes, by outlets of one class."""
    return interest.key, subscriber.outlet.write_all


class Follower(Protocol):
    """Something on its way to being live, that must not miss what is published meanwhile."""

    def keep(self, commit: Commit, topic: Topic, part: GroupCommit, changes: Sequence[Change]) -> None:
        """A commit was published; `changes` are its net changes in the topic, perhaps none."""
        ...

    def overflow(self) -> None:
        """A commit was published that is too big to be kept."""
        ...


@dataclass(eq=False, slots=True)
class Channel:
    """Everybody interested in one topic."""

    live: set[Subscription] = field(default_factory=set)
    audiences: dict[Dialect, Audience] = field(default_factory=dict)
    followers: set[Follower] = field(default_factory=set)

    @property
    def is_deserted(self) -> bool:
        return not self.live and not self.followers

    def go_live(self, subscription: Subscription, dialect: Dialect) -> None:
        audience = self.audiences.get(dialect)
        if audience is None:
            audience = self.audiences[dialect] = Audience(dialect)
        audience.add(subscription)
        self.live.add(subscription)

    def leave(self, subscription: Subscription, dialect: Dialect) -> None:
        """Take a live subscription out."""
        self.live.remove(subscription)
        self.audiences[dialect].remove(subscription)
        if not self.audiences[dialect]:
            del self.audiences[dialect]


class Touched(NamedTuple):
    """A group that a commit touched: its channel, its part of the commit, and the net changes."""

    topic: Topic
    channel: Channel
    part: GroupCommit
    changes: Sequence[Change]


def deliver(head: CommitHead, touched: Sequence[Touched]) -> None:
    """Hand a commit to all that are live on the topics that it touched, encoded once for each key."""
    merged: dict[Dialect, list[tuple[Audience, Sequence[Piece]]]] = {}
    for topic, channel, part, changes in touched:
        for dialect, audience in channel.audiences.items():
            pieces = dialect.pieces(head, topic, part, changes)
            if not pieces:
                continue
            if dialect.merges_groups and len(touched) > 1:
                merged.setdefault(dialect, []).append((audience, pieces))
            else:
                audience.deliver(head, pieces)
    for dialect, groups in merged.items():
        _deliver_merged(head, dialect, groups)


def _deliver_merged(head: CommitHead, dialect: Dialect, groups: Sequence[tuple[Audience, Sequence[Piece]]]) -> None:
    """For a dialect in which a commit is one message: gather what each connection gets of each group."""
    gathered: dict[Subscriber, list[tuple[int, Interest]]] = {}
    for number, (audience, pieces) in enumerate(groups):
        for subscriber, interest in audience.reached(pieces):
            gathered.setdefault(subscriber, []).append((number, interest))
    encoded: dict[Hashable, Messages] = {}
    for subscriber, interests in gathered.items():
        key = tuple((number, interest.key) for number, interest in interests)
        if key not in encoded:
            shares = [interest.share(groups[number][1]) for number, interest in interests]
            encoded[key] = dialect.commit(head, shares)
        subscriber.deliver(encoded[key])
