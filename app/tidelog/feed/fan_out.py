"""Who is live on a topic: for each dialect, the connections, and what each of them wants of it."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from tidelog.feed.cohort import Cohort, Interest
from tidelog.feed.failures import Unserved, UnservedError
from tidelog.feed.messages import Messages
from tidelog.feed.subscription import CommitHead, Dialect, Piece, Subscriber, Subscription
from tidelog.model.change import Change, Commit, GroupCommit, Topic

NOBODY: frozenset[Subscriber] = frozenset()


class Audience:
    """The live subscriptions of one dialect to one topic. A connection is in it once, however many it has.

    A connection may come and leave with a thousand of them within one turn of the event loop. So each is noted in
    constant time, and keys, which are of all that a connection has, are made when a delivery needs them.
    """

    __slots__ = ("_both", "_changed", "_cohorts", "_dialect", "_interests", "_items", "_unfiled")

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._interests: dict[Subscriber, Interest] = {}
        self._cohorts: dict[Hashable, Cohort] = {}  # those who want the group
        self._unfiled: dict[Subscriber, Interest] = {}  # those who want the group, and changed: in no cohort now
        self._items: dict[str, dict[Subscriber, Interest]] = {}  # those who want items, by item
        self._changed: AbstractSet[Subscriber] = NOBODY  # those who want only items, and have no key, or an old one
        self._both: AbstractSet[Subscriber] = NOBODY  # those who want items, but the group as well

    def __bool__(self) -> bool:
        return bool(self._interests)

    @property
    def subscribers(self) -> Collection[Subscriber]:
        return self._interests.keys()

    def add(self, subscription: Subscription) -> None:
        subscriber, item_id = subscription.subscriber, subscription.item_id
        interest = self._interests.get(subscriber)
        if interest is None:
            interest = self._interests[subscriber] = Interest()
        interest.add(subscription)
        if item_id is not None:
            self._items.setdefault(item_id, {})[subscriber] = interest
        self._note_change(subscriber, interest)

    def remove(self, subscription: Subscription) -> None:
        subscriber, item_id = subscription.subscriber, subscription.item_id
        interest = self._interests[subscriber]
        interest.remove(subscription)
        if item_id is not None and item_id not in interest.item_counts:
            del self._items[item_id][subscriber]
            if not self._items[item_id]:
                del self._items[item_id]
        if not interest.subscriptions:
            del self._interests[subscriber]
        self._note_change(subscriber, interest)

    def deliver(self, head: CommitHead, pieces: Sequence[Piece], unserved: Unserved) -> int:
        """To everybody who wants one of these pieces, encoded once for each key; who can't be served is noted.

        Returns how many connections want one.
        """
        self._file_changed(unserved)
        count = 0
        for cohort in self._cohorts.values():
            count += len(cohort.outlets)
            outlets, messages = iter(cohort.outlets.values()), None
            try:
                messages = self._dialect.commit(head, (cohort.interest.share(pieces),))
                cohort.write_all(outlets, messages)
            except Exception as error:
                cohort.go_on(outlets, messages, error, unserved)
        encoded: dict[Hashable, Messages] = {}
        by_item = self._reached_by_item(pieces, unserved)
        count += len(by_item)
        reached = iter(by_item.items())
        while True:  # one iterator for all, so that no subscriber costs more for another's failing
            try:
                for subscriber, interest in reached:
                    if interest.key not in encoded:
                        encoded[interest.key] = self._dialect.commit(head, (interest.share(pieces),))
                    subscriber.deliver(encoded[interest.key])
                return count
            except Exception as error:
                unserved[subscriber] = error

    def reached(self, pieces: Sequence[Piece], unserved: Unserved) -> Iterator[tuple[Subscriber, Interest]]:
        """Everybody who wants one of these pieces, each once."""
        self._file_changed(unserved)
        for cohort in self._cohorts.values():
            for subscriber in cohort.outlets:
                yield subscriber, cohort.interest
        yield from self._reached_by_item(pieces, unserved).items()

    def _reached_by_item(self, pieces: Sequence[Piece], unserved: Unserved) -> dict[Subscriber, Interest]:
        reached: dict[Subscriber, Interest] = {}
        if self._items:
            for piece in pieces:
                if piece.item_id in self._items:
                    reached |= self._items[piece.item_id]
            for subscriber in reached.keys() & self._both:
                del reached[subscriber]
            for subscriber in reached.keys() & self._changed:
                self._changed = _kept(self._changed, subscriber, False)
                if not self._make_key(subscriber, reached[subscriber], unserved):
                    del reached[subscriber]
        return reached

    def _note_change(self, subscriber: Subscriber, interest: Interest) -> None:
        """Its key is not what it was. If it wants the group, its cohort is found when something is delivered."""
        cohort, interest.cohort = interest.cohort, None
        if cohort is not None:
            del cohort.outlets[subscriber]
            if not cohort.outlets:
                del self._cohorts[cohort.key]
            elif cohort.interest is interest:
                cohort.interest = self._interests[next(iter(cohort.outlets))]
        wants_group, wants_items = interest.group_count > 0, bool(interest.item_counts)
        if wants_group:
            self._unfiled[subscriber] = interest
        else:
            self._unfiled.pop(subscriber, None)
        self._both = _kept(self._both, subscriber, wants_group and wants_items)
        self._changed = _kept(self._changed, subscriber, wants_items and not wants_group)

    def _file_changed(self, unserved: Unserved) -> None:
        """Put those who want the group, and changed, in the cohorts of their keys."""
        if not self._unfiled:
            return
        unfiled, self._unfiled = self._unfiled, {}
        for subscriber, interest in unfiled.items():
            if not self._make_key(subscriber, interest, unserved):
                continue
            # Equal ones get equal bytes, by outlets of one class.
            key = interest.key, subscriber.outlet.write_all
            cohort = self._cohorts.get(key)
            if cohort is None:
                cohort = self._cohorts[key] = Cohort(key, interest, subscriber.outlet)
            cohort.outlets[subscriber] = subscriber.outlet
            interest.cohort = cohort

    def _make_key(self, subscriber: Subscriber, interest: Interest, unserved: Unserved) -> bool:
        try:
            interest.key = self._dialect.key(interest.subscriptions)
        except Exception as error:
            unserved[subscriber] = error
            return False
        return True


def _kept(subscribers: AbstractSet[Subscriber], subscriber: Subscriber, is_one: bool) -> AbstractSet[Subscriber]:
    """The set, with the subscriber or without; of most audiences it is empty, and takes no memory."""
    if not isinstance(subscribers, set):
        return {subscriber} if is_one else NOBODY
    (subscribers.add if is_one else subscribers.discard)(subscriber)
    return subscribers or NOBODY


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


def deliver(head: CommitHead, touched: Sequence[Touched]) -> int:
    """Hand a commit to all that are live on the topics that it touched, encoded once for each key.

    Returns to how many connections (in a dialect without merged groups: for each group), those who can't be served
    counted in. Raises UnservedError for these, when all others have been served.
    """
    unserved: Unserved = {}
    count = 0
    merged: dict[Dialect, list[tuple[Audience, Sequence[Piece]]]] = {}
    for topic, channel, part, changes in touched:
        for dialect, audience in channel.audiences.items():
            try:
                pieces = dialect.pieces(head, topic, part, changes)
                if not pieces:
                    continue
                if dialect.merges_groups and len(touched) > 1:
                    merged.setdefault(dialect, []).append((audience, pieces))
                else:
                    count += audience.deliver(head, pieces, unserved)
            except Exception as error:
                unserved.update(dict.fromkeys(audience.subscribers, error))
    for dialect, groups in merged.items():
        try:
            count += _deliver_merged(head, dialect, groups, unserved)
        except Exception as error:
            for audience, _ in groups:
                unserved.update(dict.fromkeys(audience.subscribers, error))
    if unserved:
        raise UnservedError(unserved, count) from next(iter(unserved.values()))
    return count


def _deliver_merged(
    head: CommitHead, dialect: Dialect, groups: Sequence[tuple[Audience, Sequence[Piece]]], unserved: Unserved
) -> int:
    """For a dialect in which a commit is one message: gather what each connection gets of each group."""
    gathered: dict[Subscriber, list[tuple[int, Interest]]] = {}
    for number, (audience, pieces) in enumerate(groups):
        for subscriber, interest in audience.reached(pieces, unserved):
            gathered.setdefault(subscriber, []).append((number, interest))
    for subscriber in unserved:  # not a part of the commit either: whoever has its position has all of it
        gathered.pop(subscriber, None)
    encoded: dict[Hashable, Messages] = {}
    waiting = iter(gathered.items())
    while True:  # as in Audience.deliver
        try:
            for subscriber, interests in waiting:
                key = tuple((number, interest.key) for number, interest in interests)
                if key not in encoded:
                    shares = [interest.share(groups[number][1]) for number, interest in interests]
                    encoded[key] = dialect.commit(head, shares)
                subscriber.deliver(encoded[key])
            return len(gathered)
        except Exception as error:
            unserved[subscriber] = error
