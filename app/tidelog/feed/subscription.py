"""What the feed knows of a subscriber: where messages go, and who makes them. No wire format here."""

from __future__ import annotations

from collections.abc import Collection, Generator, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from tidelog.errors import TidelogError
from tidelog.feed.messages import Messages
from tidelog.model.change import Change, GroupCommit, Topic, net_changes, net_changes_in_steps
from tidelog.model.position import Position, ResetReason
from tidelog.store.ready import Wording


class Piece(NamedTuple):
    """A net change or an event, in a dialect's words, before it is known who gets it."""

    seq: int  # the order within the commit
    item_id: str | None  # None: the whole group's, so not for those who want single items
    is_event: bool
    text: str


class Share(NamedTuple):
    """What of a commit's pieces in one group is for one connection, by which of its subscriptions."""

    subscriptions: Collection[Subscription]
    pieces: Sequence[Piece]


class CommitHead(NamedTuple):
    """A commit's place in the feed and in time."""

    number: int
    at_ms: float
    xid: int = 0  # of its transaction


PREPARED_ROWS_MIN = 500  # from so many rows in a group on, a commit's delivery is prepared: some milliseconds' work


def prepare(head: CommitHead, topic: Topic, part: GroupCommit, dialects: Iterable[Dialect]) -> Iterator[None]:
    """Do of a large commit's delivery in one group what can be done before, in steps; nothing of a small one's."""
    if part.rows < PREPARED_ROWS_MIN:
        return
    if part.net is None:
        part.net = yield from net_changes_in_steps(part.changes)
    for dialect in dialects:
        prepared = yield from dialect.prepare(head, topic, part, part.net)
        part.prepared = {**(part.prepared or {}), dialect: prepared}


def net_changes_of(part: GroupCommit) -> Sequence[Change]:
    """Its net changes, perhaps prepared."""
    return net_changes(part.changes) if part.net is None else part.net


class Dialect(Protocol):
    """Turns what happened into messages. Calls come in the order of the feed."""

    merges_groups: bool  # whether a commit is one message, of however many groups the connection subscribed to

    def key(self, subscriptions: Iterable[Subscription]) -> Hashable:
        """What the bytes for a connection depend on, given its subscriptions to one group."""
        ...

    def pieces(self, head: CommitHead, topic: Topic, part: GroupCommit, changes: Sequence[Change]) -> Sequence[Piece]:
        """A commit's net changes in one group, then its events."""
        ...

    def prepare(
        self, head: CommitHead, topic: Topic, part: GroupCommit, changes: Sequence[Change]
    ) -> Generator[None, None, object]:
        """Do what of a large commit's `pieces` can be done before, in steps. They find it in `part.prepared`."""
        ...

    def commit(self, head: CommitHead, shares: Sequence[Share]) -> Messages:
        """What one connection gets of a commit."""
        ...

    def ready(self, subscriptions: Sequence[Subscription]) -> Wording | None:
        """How the database makes of a commit with one change what `commit` makes of it for these subscriptions.

        All of them are to one group, or to one item of it.
        """
        ...

    def refuse(self, subscription: Subscription, code: str, message: str) -> Messages:
        """Tell that a subscription can't be had."""
        ...

    def status(self, *, interrupted: bool, position: int, epoch: str) -> Messages | None:
        """Tell that the feed stands still for want of a database, or goes on, and where."""
        ...

    def replay(self) -> Dialect:
        """One that encodes past commits, beside the one that is at the present."""
        ...


class SyncDialect(Dialect, Protocol):
    """Subscriptions have no position: they begin, and begin again, with the whole present state."""

    def sync(self, topic: Topic, item_id: str | None, texts: Sequence[bytes], at_ms: float) -> Messages:
        """A snapshot at the feed's present position, which was reached at `at_ms`.

        Each text is of one item or more, as JSON with commas between them.
        """
        ...

    def sync_ends(self, topic: Topic, at_ms: float) -> tuple[bytes, bytes]:
        """What is before and behind the texts of a group's sync."""
        ...


class PositionDialect(Dialect, Protocol):
    """Subscriptions have positions: they can be resumed, and snapshots come in pages."""

    def page(self, subscription: Subscription, position: int, epoch: str, items: bytes, *, more: bool) -> Messages:
        """A page of a snapshot; `items` are encoded by `items`, with commas between them."""
        ...

    def items(self, rows: Iterable[Any]) -> list[str]:
        """Items of a page: of each row of id, version and data."""
        ...

    def live(self, subscription: Subscription, position: int, epoch: str) -> Messages:
        """Tell that from here on commits come as they happen."""
        ...

    def reset(self, subscription: Subscription, reason: ResetReason, position: int, epoch: str) -> Messages:
        """Tell that the position can't be gone on from; a snapshot follows."""
        ...


class Outlet(Protocol):
    """Where one connection's messages go. Nothing here blocks or raises."""

    def write(self, messages: Messages) -> None:
        """Send messages, in order, all of them or (on a connection that ends) none."""
        ...

    @staticmethod
    def write_all(outlets: Iterable[Any], messages: Messages) -> None:
        """The same to many outlets of this class: for a thousand, a call for each is much of what they cost.

        Each is written to before the next is taken: so what is raised in spite of all is the last taken one's.
        """
        ...


class Subscriber(Protocol):
    """One connection. Nothing here blocks or raises, but for `drained`, which waits.

    One that becomes full by what it is sent tells `Subscriptions.note_full`. It must not subscribe or unsubscribe
    then, for the feed is going through its subscribers.
    """

    @property
    def outlet(self) -> Outlet:
        """Where the messages go."""
        ...

    @property
    def dialect(self) -> Dialect:
        """Who makes its messages; the same object for all connections that are to share them."""
        ...

    @property
    def client(self) -> Hashable:
        """Whose connection it is, as far as it is known: what is scarce is shared between clients."""
        ...

    @property
    def is_full(self) -> bool:
        """Whether so much waits to be sent that more should not be delivered now."""
        ...

    @property
    def taken(self) -> int:
        """Bytes that the client has taken, counted from anywhere: if they grow while it is full, it reads."""
        ...

    @property
    def waiting_bytes(self) -> int:
        """Bytes that wait in this process to be sent."""
        ...

    def deliver(self, messages: Messages) -> None:
        """Write messages to the outlet."""
        ...

    async def drained(self) -> None:
        """Return when it is not full (any more), or when the connection has ended."""
        ...

    def give_up(self, position: int | None) -> None:
        """It has not drained in time: close the connection and tell it to resume from `position`, if it has one."""
        ...

    def refuse(self, subscription: Subscription, error: TidelogError) -> None:
        """This subscription of its is over, or can't be had: tell the client."""
        ...

    def fail(self) -> None:
        """It can't be served, for a fault of ours: close the connection, so that it may come back."""
        ...


@dataclass(eq=False, slots=True)
class Subscription:
    """One connection's interest in a group or, with `item_id`, in one item of it."""

    name: str  # the client's name for it
    subscriber: Subscriber
    topic: Topic
    item_id: str | None = None


@dataclass(eq=False, slots=True)
class SyncSubscription(Subscription):
    """One that begins with a sync."""

    @property
    def dialect(self) -> SyncDialect:
        return self.subscriber.dialect  # type: ignore[return-value]  # its dialect made it


@dataclass(eq=False, slots=True)
class PositionSubscription(Subscription):
    """One that begins with the commits after `since` or, without, with a snapshot."""

    since: Position | None = None

    @property
    def dialect(self) -> PositionDialect:
        return self.subscriber.dialect  # type: ignore[return-value]  # its dialect made it
