"""The wire format of Motia's published stream clients; the default one.

Facts about the clients were read from, and tried with, `@motiadev/stream-client-node` 0.13.

The clients drop what they take for old by `timestamp`: an item subscription drops any message that is not
newer than its last one, a group drops a sync that is older than its last message. A clock of whole
milliseconds therefore loses the second of two quick changes. Here the timestamp is the commit's own time,
whatever process sends it; commits are at least 10 microseconds apart, which is 40 doubles at this
magnitude. A commit's slot on that scale is used as follows: its changes at its time, its events at the
following doubles, a sync at the end of the slot.
"""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from tidelog.errors import MessageInvalidError
from tidelog.feed.messages import Messages
from tidelog.feed.subscription import CommitHead, Piece, Share, Subscription
from tidelog.model.change import STEP_ROWS, Change, Event, GroupCommit, Topic
from tidelog.web.dialects.names import SUBSCRIPTION_NAME_LENGTH_MAX, quote, read_name

# The end of a commit's slot, before the next commit's earliest time (10 microseconds on).
SYNC_OFFSET_MS = 0.0095


@dataclass(frozen=True, slots=True)
class Request:
    """A client's join or leave."""

    type: Literal["join", "leave"]
    topic: Topic
    item_id: str | None
    subscription_id: str


def parse(text: str) -> Request:
    """Read a client's message; raises MessageInvalidError saying what is wrong with it."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MessageInvalidError(f"not JSON: {error}") from error
    if not isinstance(message, dict) or message.get("type") not in ("join", "leave"):
        raise MessageInvalidError('expected {"type": "join" or "leave", "data": {...}}')
    data = message.get("data")
    if not isinstance(data, dict):
        raise MessageInvalidError("data must be an object with streamName, groupId and subscriptionId")
    return Request(
        type=message["type"],
        topic=Topic(read_name(data, "streamName"), read_name(data, "groupId")),
        # The clients send null for "the whole group"; an empty id is no key, and means the same to them.
        item_id=read_name(data, "id") if data.get("id") else None,
        subscription_id=read_name(data, "subscriptionId", SUBSCRIPTION_NAME_LENGTH_MAX),
    )


class MotiaDialect:
    """Encodes for this process's sockets. Stateful only in its clock, which never stands still or goes back."""

    merges_groups = False  # a message is of one item

    def __init__(self) -> None:
        self._last = 0.0
        self._head = CommitHead(0, 0.0)
        self._commit_time = 0.0

    def key(self, subscriptions: Iterable[Subscription]) -> Hashable:
        """The items that are wanted, or None for all; the client tells its subscriptions apart by itself."""
        ids = frozenset(subscription.item_id for subscription in subscriptions)
        return None if None in ids else ids

    def pieces(self, head: CommitHead, topic: Topic, part: GroupCommit, changes: Sequence[Change]) -> Sequence[Piece]:
        """Each is a message of its own."""
        if head != self._head:  # a number alone may come again, in another epoch
            self._head = head
            self._commit_time = max(head.at_ms, _next_double(self._last))
        time = self._commit_time
        prepared = part.prepared and part.prepared.get(self)
        if prepared:
            change_ends, event_ends = prepared
            begin = f'{{"timestamp":{time!r},'
            ends = zip(changes, change_ends, strict=True)
            pieces = [Piece(change.seq, change.id, False, begin + end) for change, end in ends]
        else:
            begin = f'{{"timestamp":{time!r},{_address(topic)},"id":'
            pieces = [
                Piece(change.seq, change.id, False, f"{begin}{quote(change.id)}{_change_end(change)}")
                for change in changes
            ]
            event_ends = _event_ends(topic, part.events) if part.events else ()
        for event, end in zip(part.events, event_ends, strict=True):
            time = _next_double(time)
            pieces.append(Piece(event.seq, event.id, True, f'{{"timestamp":{time!r},{end}'))
        self._last = max(self._last, time)
        return pieces

    def prepare(
        self, _head: CommitHead, topic: Topic, part: GroupCommit, changes: Sequence[Change]
    ) -> Generator[None, None, object]:
        """All but the time, which is known when it is delivered."""
        change_ends: list[str] = []
        event_ends: list[str] = []
        for begin in range(0, len(changes), STEP_ROWS):
            change_ends += _change_ends(topic, changes[begin : begin + STEP_ROWS])
            yield
        for begin in range(0, len(part.events), STEP_ROWS):
            event_ends += _event_ends(topic, part.events[begin : begin + STEP_ROWS])
            yield
        return change_ends, event_ends

    def commit(self, _head: CommitHead, shares: Sequence[Share]) -> Messages:
        """The messages of one group that are wanted."""
        return Messages([piece.text.encode() for share in shares for piece in share.pieces])

    def sync(self, topic: Topic, item_id: str | None, texts: Sequence[bytes], at_ms: float) -> Messages:
        """The whole group as a list, or one item (null if there is none)."""
        if item_id is not None:
            head = self._sync_head(topic, f'"id":{quote(item_id)},', at_ms)
            return Messages([b"".join((head, *(texts or [b"null"]), b"}}"))])
        head, tail = self.sync_ends(topic, at_ms)
        # Joined once: it may be large.
        items = [piece for text in texts for piece in (b",", text)][1:]
        return Messages([b"".join((head, *items, tail))])

    def sync_ends(self, topic: Topic, at_ms: float) -> tuple[bytes, bytes]:
        return self._sync_head(topic, "", at_ms) + b"[", b"]}}"

    def _sync_head(self, topic: Topic, channel: str, at_ms: float) -> bytes:
        self._last = max(self._last, at_ms + SYNC_OFFSET_MS)
        return f'{{"timestamp":{self._last!r},{_address(topic)},{channel}"event":{{"type":"sync","data":'.encode()

    def ready(self, _subscriptions: Sequence[Subscription]) -> None:
        """A message's time depends on the one before it."""

    def refuse(self, subscription: Subscription, code: str, message: str) -> Messages:
        """An error, as the clients know it: an event of type `error`."""
        return self.error(subscription.topic, subscription.item_id, code, message)

    def error(self, topic: Topic, item_id: str | None, code: str, message: str) -> Messages:
        data = json.dumps({"code": code, "message": message})
        end = _event_end(topic, item_id, f'{{"type":"error","data":{data}}}')
        return Messages([f'{{"timestamp":{self._last!r},{end}'.encode()])

    def status(self, *, interrupted: bool, position: int, epoch: str) -> None:
        """The clients have no word for it: they wait."""

    def replay(self) -> MotiaDialect:
        """One with a clock of its own: past commits have their own times."""
        return MotiaDialect()


def _change_ends(topic: Topic, changes: Iterable[Change]) -> list[str]:
    """Of each change the message behind its time."""
    begin = f'{_address(topic)},"id":'
    return [f"{begin}{quote(change.id)}{_change_end(change)}" for change in changes]


def _change_end(change: Change) -> str:
    return f',"event":{{"type":"{change.op}","data":{change.data}}}}}'


def _event_ends(topic: Topic, events: Iterable[Event]) -> list[str]:
    return [_event_end(topic, event.id, f'{{"type":{quote(event.type)},"data":{event.data}}}') for event in events]


def _event_end(topic: Topic, item_id: str | None, body: str) -> str:
    channel = "" if item_id is None else f'"id":{quote(item_id)},'
    return f'{_address(topic)},{channel}"event":{{"type":"event","event":{body}}}}}'


def _address(topic: Topic) -> str:
    return f'"streamName":{quote(topic.stream)},"groupId":{quote(topic.group_id)}'


def _next_double(time: float) -> float:
    return math.nextafter(time, math.inf)
