"""What one connection wants of a topic, and those who want the same of it: they get the same bytes."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Sequence
from operator import length_hint

from tidelog.feed.failures import Unserved
from tidelog.feed.messages import Messages
from tidelog.feed.subscription import Outlet, Piece, Share, Subscriber, Subscription


class Interest:
    """One connection's live subscriptions to one topic. Equal keys get equal bytes."""

    __slots__ = ("_several", "cohort", "group_count", "item_counts", "key", "subscriptions")

    def __init__(self) -> None:
        # In the order in which they came. Most connections have one, and most of these want the group: there may be a
        # hundred thousand of them.
        self.subscriptions: Collection[Subscription] = ()
        self._several: dict[Subscription, None] | None = None  # the same, if there have been more than one
        self.group_count = 0  # of the subscriptions to the whole group
        self.item_counts: dict[str, int] = {}  # of those to each item
        self.key: Hashable = None  # as of the last delivery that reached it
        self.cohort: Cohort | None = None  # as of the last delivery, if it wants the whole group

    def add(self, subscription: Subscription) -> None:
        if self._several is None and not self.subscriptions:
            self.subscriptions = (subscription,)
        else:
            if self._several is None:
                self.subscriptions = self._several = dict.fromkeys(self.subscriptions)
            self._several[subscription] = None
        if subscription.item_id is None:
            self.group_count += 1
        else:
            self.item_counts[subscription.item_id] = self.item_counts.get(subscription.item_id, 0) + 1

    def remove(self, subscription: Subscription) -> None:
        if self._several is None:
            self.subscriptions = ()
        else:
            del self._several[subscription]
        if subscription.item_id is None:
            self.group_count -= 1
        else:
            self.item_counts[subscription.item_id] -= 1
            if not self.item_counts[subscription.item_id]:
                del self.item_counts[subscription.item_id]

    def share(self, pieces: Sequence[Piece]) -> Share:
        """What of the pieces is for this connection."""
        if not self.group_count:
            pieces = [piece for piece in pieces if piece.item_id in self.item_counts]
        return Share(self.subscriptions, pieces)


class Cohort:
    """Connections that want the whole group, under one key: each gets what `interest`, one of theirs, gets."""

    __slots__ = ("interest", "key", "outlets", "write_all")

    def __init__(self, key: Hashable, interest: Interest, outlet: Outlet) -> None:
        self.key = key
        self.interest = interest
        self.write_all = outlet.write_all
        self.outlets: dict[Subscriber, Outlet] = {}

    def go_on(self, outlets: Iterator[Outlet], messages: Messages | None, error: Exception, unserved: Unserved) -> None:
        """Serve the rest of the `outlets` that `write_all` was taking, after `error`, which was the last taken one's.

        The iterator of a dict tells how many are left: so nothing needs to be noted while all goes well.
        """
        subscribers = list(self.outlets)
        left = len(subscribers)
        while (left_now := length_hint(outlets)) < left and messages is not None:
            left = left_now
            unserved[subscribers[-left - 1]] = error
            try:
                self.write_all(outlets, messages)
            except Exception as another:
                error = another
            else:
                return
        # There are no messages, or nobody was taken: who was served isn't known, and who was can come back and go on.
        unserved.update(dict.fromkeys(subscribers, error))
