"""Whether the feed stands still for want of a database, or in which epoch it goes on: and who has been told.

It knows the connections' subscribers and nothing of subscriptions; what it tells them is made by their dialects.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.feed.broadcaster import Broadcaster
    from app.feed.failures import Unserved
    from app.feed.subscription import Subscriber


class Status:
    """What every connection is to know of the feed as a whole, in the order of the commits."""

    def __init__(self, broadcaster: Broadcaster, everybody: Callable[[], Collection[Subscriber]]) -> None:
        self._broadcaster = broadcaster
        self._everybody = everybody
        self._interrupted = False
        self._untold: set[Subscriber] = set()  # as they could not take it

    def tell(self, *, interrupted: bool) -> None:
        """Tell everybody, if it is news."""
        if interrupted != self._interrupted:
            self._interrupted = interrupted
            self.tell_everybody()

    def tell_everybody(self) -> None:
        unserved: Unserved = {}
        for subscriber in self._everybody():
            try:
                self._tell(subscriber)
            except Exception as error:
                unserved[subscriber] = error
        self._broadcaster.fail(unserved)

    def tell_missed(self, subscriber: Subscriber) -> None:
        """This one can take what it could not."""
        if subscriber in self._untold:
            self._tell(subscriber)

    def enter(self, subscriber: Subscriber) -> None:
        """A new connection; that all is well is no news to it."""
        if self._interrupted:
            self._tell(subscriber)

    def leave(self, subscriber: Subscriber) -> None:
        self._untold.discard(subscriber)

    def _tell(self, subscriber: Subscriber) -> None:
        broadcaster = self._broadcaster
        # The position holds for all that is live: one that fell behind is told when it is at the present again.
        if subscriber.is_full or broadcaster.behind(subscriber) is not None:
            self._untold.add(subscriber)
            return
        self._untold.discard(subscriber)
        message = subscriber.dialect.status(
            interrupted=self._interrupted, position=broadcaster.position, epoch=broadcaster.epoch
        )
        if message is not None:
            subscriber.deliver(message)
