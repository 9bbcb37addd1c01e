"""What the two users of the feed call: the reader, and connections."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

from tidelog.feed.cork import Cork
from tidelog.feed.progress import Progress
from tidelog.feed.subscription import Subscriber, Subscription
from tidelog.model.change import Commit, Topic
from tidelog.store.log import Head


class CommitSink(Protocol):
    """What the reader calls: with commits, in the order of their numbers, each once, and what became of the log."""

    @property
    def progress(self) -> Progress:
        """How far it is; the reader only looks at it."""
        ...

    @property
    def wanted(self) -> Collection[Topic]:
        """The topics that somebody wants to be told of, at each moment."""
        ...

    @property
    def is_deserted(self) -> bool:
        """Whether nobody is subscribed, or on the way to it. The sequencer's thread asks, too."""
        ...

    async def wait_for_interest(self, seconds: float) -> None:
        """Return when somebody subscribes, or after so long."""
        ...

    def start(self, position: int, at_ms: float) -> None:
        """The feed begins at this position: what was before is in every snapshot. Only while it is deserted."""
        ...

    def go_on(self, head: Head) -> None:
        """The reader is connected again, and all that was published is in the log that it found."""
        ...

    def go_back(self, head: Head) -> None:
        """The log that it found lacks what was published (as a promoted replica did): begin again at its head."""
        ...

    def begin_epoch(self, epoch: str) -> None:
        """The log goes on in this epoch."""
        ...

    async def prepare(self, commit: Commit) -> None:
        """Do of a large commit's delivery what can be done before `publish`, with everybody else's turns in between."""
        ...

    def note_partial(self, position: int) -> None:
        """This commit is read in part, which takes a while."""
        ...

    def publish(self, commits: Sequence[Commit]) -> None:
        """Deliver the next commits. Whoever can't be served, for a fault of ours, is closed: the feed goes on."""
        ...

    def settle(self) -> None:
        """Let those go on that wait for the feed; called between commits."""
        ...

    def tell_status(self, *, interrupted: bool) -> None:
        """Tell every connection, if it is news, that the feed stands still for want of a database, or goes on."""
        ...


class Subscriptions(Protocol):
    """What connections call."""

    @property
    def cork(self) -> Cork:
        """Under which outlets gather."""
        ...

    def enter(self, subscriber: Subscriber) -> None:
        """A new connection; before it subscribes."""
        ...

    def leave(self, subscriber: Subscriber, subscriptions: Iterable[Subscription]) -> None:
        """The connection has ended, and all its subscriptions with it; nothing happens if it has left already."""
        ...

    def subscribe(self, subscription: Subscription) -> None:
        """Bring the subscription to the present, and then deliver every commit: nothing missed, nothing repeated."""
        ...

    def unsubscribe(self, subscription: Subscription) -> bool:
        """Send no more for this subscription; False, and nothing happens, if it has ended already."""
        ...

    def note_full(self, subscriber: Subscriber) -> None:
        """More waits to be sent to this subscriber than should; unless it drains soon it reads from the log."""
        ...

    async def drained(self, subscriber: Subscriber) -> None:
        """Wait until the subscriber can take more. Raises FellBehindError if it takes nothing: it is being closed."""
        ...

    def fail(self, unserved: Mapping[Subscriber, Exception]) -> None:
        """These could not be served, for a fault of ours: close them, so that they come back, and forget them."""
        ...
