"""Whether a subscriber in the dialect tidelog.v1 got exactly the feed, by the positions that its frames carry.

From wherever a subscription stands, the next commit that it gets is the next one that has a change for it:
across reconnects to any process, and as far as one connection's subscriptions go, in one frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.faults.feed import Feed, Message, stamp_of
from tests.faults.history import Channel, Connection, Document, Group, Record, Subscriber
from tests.faults.problem import Problem


@dataclass
class Subscription:
    """One subscription on one connection."""

    channel: Channel
    position: int | None  # all up to here has come; None: a snapshot is due
    begun_at: int | None = None  # events from before it are not replayed, or only some of them
    live_at: int | None = None  # all events from after it come
    is_left: bool = False
    snapshot_position: int | None = None  # of a snapshot whose pages are coming
    pages: dict[str, tuple[int, Document]] = field(default_factory=dict)


def check_subscriber(subscriber: Subscriber, feed: Feed) -> Iterator[Problem]:
    """Check all its connections, each for itself: each says where it goes on from."""
    for index, connection in enumerate(subscriber.connections, start=1):
        where = f"{subscriber.name}, connection {index} ({connection.server})"
        yield from _Replay(where, feed).check(connection)


class _Replay:
    """One connection, gone through frame by frame. It stops at the first problem: what follows is no news."""

    def __init__(self, where: str, feed: Feed) -> None:
        self._where = where
        self._feed = feed
        self._subscriptions: dict[str, Subscription] = {}
        self._events: dict[str, set[str]] = {}  # stamps, by subscription

    def check(self, connection: Connection) -> Iterator[Problem]:
        for record in connection.records:
            if (problem := self._take(record)) is not None:
                yield problem
                return
        for name, subscription in self._subscriptions.items() if connection.is_complete else ():
            position = subscription.position
            missing = 0 if position is None else self._feed.next_change(subscription.channel, position)
            if missing is not None and not subscription.is_left:
                yield self._problem("lost", f"{name} ended at {position}; commit {missing} did not come")
        for name, subscription in self._subscriptions.items():
            if (missed := self._missed_event(name, subscription)) is not None:
                yield self._problem("lost", f"{name} was live at {subscription.live_at}; {missed} did not come")

    def _take(self, record: Record) -> Problem | None:
        body = record.body
        if record.kind == "join":
            channel = Channel(body["stream"], body["group"], body.get("item"))
            since = body.get("since")
            self._subscriptions[body["id"]] = Subscription(channel, since, begun_at=since)
            self._events[body["id"]] = set()
            return None
        if record.kind == "leave":
            self._subscriptions[body["id"]].is_left = True
            return None
        if body["type"] == "status":
            return None
        if body["type"] == "commit":
            return self._commit(body)
        if body["type"] == "event":
            return self._event(body)
        subscription = self._subscriptions.get(body.get("subscription", ""))
        if subscription is None or body["type"] not in ("snapshot", "live"):
            return self._problem(body["type"], f"not to be expected here: {body}")
        return self._snapshot(subscription, body) if body["type"] == "snapshot" else self._live(subscription, body)

    def _snapshot(self, subscription: Subscription, frame: Document) -> Problem | None:
        position = frame["position"]
        if subscription.position is not None:
            return self._problem("repeated", f"a snapshot that nobody asked for: {frame}")
        if subscription.snapshot_position not in (None, position):
            return self._problem("sync", f"a page as of {subscription.snapshot_position} before {frame}")
        subscription.snapshot_position = position
        for item in frame["items"]:
            if item["id"] in subscription.pages:
                return self._problem("repeated", f"an item was on a page before: {item}")
            subscription.pages[item["id"]] = (item["version"], item["data"])
        if frame["more"]:
            return None
        wanted = self._feed.versions(subscription.channel, position)
        if subscription.pages != wanted:
            return self._problem("sync", f"as of {position} it is {wanted}, but was told as {subscription.pages}")
        subscription.position = subscription.begun_at = position
        return None

    def _live(self, subscription: Subscription, frame: Document) -> Problem | None:
        if subscription.position is None:
            return self._problem("live", f"live before its snapshot: {frame}")
        missed = self._feed.next_change(subscription.channel, subscription.position)
        if missed is not None and missed <= frame["position"]:
            return self._problem("lost", f"commit {missed} did not come before {frame}")
        subscription.position = max(subscription.position, frame["position"])
        subscription.live_at = frame["position"]
        return None

    def _commit(self, frame: Document) -> Problem | None:
        number, names = frame["position"], frame["subscriptions"]
        for name in names:
            subscription = self._subscriptions.get(name)
            if subscription is None or subscription.position is None:
                return self._problem("invented", f"{name} has not begun, but got {frame}")
            due = self._feed.next_change(subscription.channel, subscription.position)
            if due != number:
                kind = "repeated" if number <= subscription.position else "lost"
                return self._problem(kind, f"{name} is at {subscription.position}, due was {due}, it got {frame}")
            subscription.position = number
        return self._left_out(frame) or self._changes(frame, [self._subscriptions[name].channel for name in names])

    def _left_out(self, frame: Document) -> Problem | None:
        """What comes to a live subscription comes to all that are live: none is behind it."""
        if not all(self._subscriptions[name].live_at is not None for name in frame["subscriptions"]):
            return None
        for name, other in self._subscriptions.items():
            if name not in frame["subscriptions"] and other.live_at is not None and not other.is_left:
                due = self._feed.next_change(other.channel, other.position or 0)
                if due is not None and due <= frame["position"]:
                    return self._problem("half", f"{name} should have been told of commit {due} by now: {frame}")
        return None

    def _changes(self, frame: Document, channels: list[Channel]) -> Problem | None:
        number = frame["position"]
        for group in dict.fromkeys(channel.group for channel in channels):
            whole = [m for m in self._feed.messages(number, group) if m.kind != "event"]
            wanted = [message for message in whole if any(message.concerns(channel) for channel in channels)]
            got = [c for c in frame["changes"] if Group(c["stream"], c["group"]) == group]
            told = [Message(c["op"], c["stream"], c["group"], c["id"], stamp_of(c["data"])) for c in got]
            if told != wanted:
                kind = "order" if set(told) == set(wanted) else "half" if set(told) < set(wanted) else "invented"
                return self._problem(kind, f"commit {number} is {wanted}, but was told as {told}")
            for change, message in zip(got, wanted, strict=True):
                as_written = (self._feed.version_of[message], self._feed.data[message])
                if (change["version"], change["data"]) != as_written:
                    return self._problem("fold", f"{change}, but the log has {as_written}")
        others = [c for c in frame["changes"] if Group(c["stream"], c["group"]) not in {c.group for c in channels}]
        return self._problem("extra", f"nobody subscribed to {others}") if others else None

    def _event(self, frame: Document) -> Problem | None:
        """An event comes at most once to each subscription, in its place; those of before a resume may not come."""
        data = frame["event"]["data"]
        message = Message("event", frame["stream"], frame["group"], frame.get("id"), stamp_of(data))
        if message not in self._feed.loose:
            if self._feed.commit_of.get(message) != frame["position"]:
                return self._problem("invented", f"no commit of that position has this event: {frame}")
            if data != self._feed.data[message]:
                return self._problem("fold", f"{frame}, but the log has {self._feed.data[message]}")
        for name in frame["subscriptions"]:
            subscription = self._subscriptions.get(name)
            if subscription is None or not message.concerns(subscription.channel):
                return self._problem("extra", f"{name} has nothing to do with {frame}")
            if message.stamp in self._events[name]:
                return self._problem("repeated", f"{name} got this event before: {frame}")
            self._events[name].add(message.stamp)
            if subscription.position is None or subscription.begun_at is None:
                return self._problem("invented", f"{name} has not begun, but got {frame}")
            missed = self._feed.next_change(subscription.channel, subscription.position)
            if not subscription.begun_at < frame["position"] or (missed is not None and missed <= frame["position"]):
                return self._problem("order", f"{name} is at {subscription.position} and got {frame}")
            subscription.position = max(subscription.position, frame["position"])
        return None

    def _missed_event(self, name: str, subscription: Subscription) -> Message | None:
        """An event of a commit that a live subscription has passed, and that did not come."""
        if subscription.live_at is None or subscription.position is None or subscription.is_left:
            return None
        for number in self._feed.due_between(subscription.channel, subscription.live_at, subscription.position):
            for message in self._feed.messages(number, subscription.channel.group):
                is_due = message.kind == "event" and message.concerns(subscription.channel)
                if is_due and message.stamp not in self._events[name]:
                    return message
        return None

    def _problem(self, kind: str, detail: str) -> Problem:
        return Problem(kind, self._where, detail)
