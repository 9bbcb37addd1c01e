"""Who of one connection gets which past commit: its subscriptions, each from a position of its own on. No I/O here."""

from __future__ import annotations

from collections.abc import Iterator, KeysView, Mapping, Sequence
from typing import NamedTuple

from tidelog.feed.subscription import CommitHead, Dialect, Piece, Share, Subscriber, Subscription
from tidelog.model.change import Change, GroupCommit, Topic
from tidelog.store.ready import ManyWanted, OneWanted, Wanted


class Part(NamedTuple):
    """What a commit did in one group: its part of the commit, and the net changes."""

    topic: Topic
    group: GroupCommit
    changes: Sequence[Change]


class _Told(NamedTuple):
    """Those that are told of what happens in one group."""

    subscriptions: Sequence[Subscription]
    item_ids: frozenset[str] | None  # None: of all of it

    def share(self, pieces: Sequence[Piece]) -> Share:
        if self.item_ids is not None:
            pieces = [piece for piece in pieces if piece.item_id in self.item_ids]
        return Share(self.subscriptions, pieces)


class Recipients:
    """Subscriptions of one connection, with the commit up to which each has everything.

    Commits come in their order, so one that has more than the others joins them by the way: see `joining`.
    """

    def __init__(self, subscriber: Subscriber, dialect: Dialect, cursors: Mapping[Subscription, int]) -> None:
        self._subscriber = subscriber
        self._dialect = dialect
        self._cursors: dict[Topic, dict[Subscription, int]] = {}
        for subscription, cursor in cursors.items():
            self._cursors.setdefault(subscription.topic, {})[subscription] = cursor
        self._told: dict[Topic, _Told | None] = {}  # of the present commit
        self._joining = sorted({(cursor, sub.topic) for sub, cursor in cursors.items()}, reverse=True)
        self._stream_cursors: dict[str, int] | None = None
        self._wanted: Wanted | None = None
        self._is_wanted_known = False

    def __bool__(self) -> bool:
        return bool(self._cursors)

    def __contains__(self, subscription: Subscription) -> bool:
        return subscription in self._cursors.get(subscription.topic, ())

    def __iter__(self) -> Iterator[Subscription]:
        for cursors in self._cursors.values():
            yield from cursors

    @property
    def topics(self) -> KeysView[Topic]:
        """What they want between them, also of those that join later."""
        return self._cursors.keys()

    def of(self, topic: Topic, number: int) -> list[Subscription]:
        """Those that are to be told of commit `number`, if it touches the topic."""
        return [sub for sub, cursor in self._cursors.get(topic, {}).items() if cursor < number]

    def joined(self, cursor: int) -> list[Subscription]:
        """Those that have no more than what is up to `cursor`."""
        return [sub for topic in self._cursors for sub in self.of(topic, cursor + 1)]

    def joining(self, cursor: int) -> int | None:
        """Where, after `cursor`, more of them join; None if all have."""
        self._move_on(cursor + 1)
        return self._joining[-1][0] if self._joining else None

    @property
    def stream_cursors(self) -> Mapping[str, int]:
        """Up to where they have all of each stream, or more, if one of them has ended since `lacking` was asked."""
        if self._stream_cursors is None:
            self._stream_cursors = {}
            for topic, cursors in self._cursors.items():
                low = min(cursors.values())
                self._stream_cursors[topic.stream] = min(low, self._stream_cursors.get(topic.stream, low))
        return self._stream_cursors

    def lacking(self, cursor: int, floors: Mapping[str, int]) -> list[Subscription]:
        """Those that, with all up to `cursor`, lack something of what was removed up to the floor of its stream."""
        self._stream_cursors = None
        return [
            subscription
            for topic, cursors in self._cursors.items()
            if cursor < (floor := floors.get(topic.stream, 0))
            for subscription, own in cursors.items()
            if own < floor
        ]

    def remove(self, subscription: Subscription) -> bool:
        """Returns whether nobody wants its topic any more."""
        topic = subscription.topic
        del self._cursors[topic][subscription]
        self._forget(topic)
        if self._cursors[topic]:
            return False
        del self._cursors[topic]
        return True

    def deliver(self, head: CommitHead, parts: Sequence[Part]) -> None:
        """Tell those that don't have it of the next commit, as the feed tells those that are live (audience.py)."""
        self._move_on(head.number)
        shares = []
        for topic, group, changes in parts:
            told = self._tell(topic, head.number)
            if told is None:
                continue
            share = told.share(self._dialect.pieces(head, topic, group, changes))
            if share.pieces:
                shares.append(share)
        if shares and self._dialect.merges_groups:
            self._subscriber.deliver(self._dialect.commit(head, shares))
            return
        for share in shares:
            self._subscriber.deliver(self._dialect.commit(head, (share,)))

    def wanted(self, cursor: int) -> Wanted | None:
        """What the database may make messages of after `cursor`, up to where more of them join; None if it can't."""
        self._move_on(cursor + 1)
        if not self._is_wanted_known:
            self._wanted, self._is_wanted_known = self._find_wanted(cursor + 1), True
        return self._wanted

    def _find_wanted(self, number: int) -> Wanted | None:
        told = {topic: subscriptions for topic in self._cursors if (subscriptions := self.of(topic, number))}
        if len(told) == 1:
            ((topic, subscriptions),) = told.items()
            items = {subscription.item_id for subscription in subscriptions}
            wording = self._dialect.ready(subscriptions) if len(items) == 1 else None
            return None if wording is None else OneWanted(topic, items.pop(), wording)
        # A message names those that it is for: of a group's change all of the group's, but not those of its items.
        wordings = {
            topic: self._dialect.ready(subscriptions) if all(one.item_id is None for one in subscriptions) else None
            for topic, subscriptions in told.items()
        }
        return ManyWanted(wordings) if any(wordings.values()) else None

    def _tell(self, topic: Topic, number: int) -> _Told | None:
        if topic not in self._told and topic in self._cursors:
            told = self.of(topic, number)
            ids = frozenset([one.item_id for one in told if one.item_id is not None])
            wants_all = any(one.item_id is None for one in told)
            self._told[topic] = _Told(told, None if wants_all else ids) if told else None
        return self._told.get(topic)

    def _move_on(self, number: int) -> None:
        """Commit `number` comes next: some may join."""
        while self._joining and self._joining[-1][0] < number:
            self._forget(self._joining.pop()[1])

    def _forget(self, topic: Topic) -> None:
        self._told.pop(topic, None)
        self._is_wanted_known = False
