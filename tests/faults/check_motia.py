"""Whether a subscriber in Motia's dialect got exactly the feed: from each sync on, every commit, once, whole.

The dialect's frames carry no position. So the checker keeps all the positions at which the connection may
stand (stretches of commit numbers), and each frame must leave at least one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, combinations

from tests.faults.feed import Feed, Items, Message, stamp_of
from tests.faults.history import Channel, Connection, Document, Group, Record, Subscriber
from tests.faults.problem import Problem

Stretch = tuple[int, int]
Known = dict[Channel, list[tuple[int, int]]]  # when a commit of the channel was acknowledged, and its number


def check_subscriber(subscriber: Subscriber, feed: Feed, known: Known | None) -> Iterator[Problem]:
    """Check all its connections.

    With `known`, a sync has all that was known before its join was sent: what had been acknowledged, and
    what this subscriber had seen on an earlier connection.
    """
    seen = 0
    for index, connection in enumerate(subscriber.connections, start=1):
        where = f"{subscriber.name}, connection {index} ({connection.server})"
        replay = _Replay(where, feed, known or {}, seen if known is not None else 0)
        yield from replay.check(connection)
        seen = max(seen, replay.seen)


class _Replay:
    """One connection, gone through frame by frame. It stops at the first problem: what follows is no news."""

    def __init__(self, where: str, feed: Feed, known: Known, seen: int) -> None:
        self._where = where
        self._feed = feed
        self._known = known
        self._stretches: list[Stretch] = [(seen, feed.head)]
        self._live: set[Channel] = set()
        self._leaving: set[Channel] = set()  # left, but frames may still be on their way
        self._joined: dict[Channel, int] = {}  # when it was last joined
        self._run: list[Message] = []  # frames of one commit
        self._loose: set[str] = set()  # stamps of events that are not in the feed's log
        self.seen = seen

    def check(self, connection: Connection) -> Iterator[Problem]:
        for record in connection.records:
            if (problem := self._take(record)) is not None:
                yield problem
                return
        if (problem := self._finish_run(is_last=not connection.is_complete)) is not None:
            yield problem
        elif connection.is_complete and all(self._feed.next_due(self._live, high) for _, high in self._stretches):
            missing = self._feed.next_due(self._live, self._stretches[-1][1])
            yield self._problem("lost", f"nothing came after {self._stretches}, not even commit {missing}")

    def _take(self, record: Record) -> Problem | None:
        body = record.body
        if record.kind == "join":
            self._joined[_channel(body)] = record.at
            return None
        if record.kind == "leave":
            channel = _channel(body)
            if channel in self._live:
                self._live.discard(channel)
                self._leaving.add(channel)
            return None
        if body["event"]["type"] == "sync":
            return self._finish_run() or self._sync(_channel(body), body["event"]["data"])
        return self._message(body)

    def _message(self, frame: Document) -> Problem | None:
        event = frame["event"]
        if event["type"] == "event":
            if event["event"]["type"] == "error":
                return self._problem("error", str(frame))
            data = event["event"]["data"]
        else:
            data = event["data"]
        message = Message(event["type"], frame["streamName"], frame["groupId"], frame.get("id"), stamp_of(data))
        number = self._feed.commit_of.get(message)
        if number is None:
            return self._unknown(message, frame)
        if data != self._feed.data[message]:
            return self._problem("fold", f"{frame}, but the log has {self._feed.data[message]}")
        if self._run and self._feed.commit_of[self._run[0]] != number:
            problem = self._finish_run()
            if problem is not None:
                return problem
        self._run.append(message)
        return None

    def _unknown(self, message: Message, frame: Document) -> Problem | None:
        if message.kind == "event" and message in self._feed.loose:
            if message.stamp in self._loose:
                return self._problem("repeated", f"{frame} came before")
            self._loose.add(message.stamp)
            return None
        return self._problem("invented", f"no commit has this change, net, or this event: {frame}")

    def _sync(self, channel: Channel, data: object) -> Problem | None:
        if channel not in self._joined:
            return self._problem("invented", f"a sync of {channel}, which was not joined")
        items = _items(data)
        if isinstance(data, list) and len(data) > len(items):
            return self._problem("repeated", f"a sync of {channel} has an item twice: {data}")
        # What was committed when the join was sent, and known to be, is in the snapshot.
        floor = max((number for at, number in self._known.get(channel, ()) if at < self._joined[channel]), default=0)
        reachable = [
            (max(low, floor), self._reach(high)) for low, high in self._stretches if self._reach(high) >= floor
        ]
        found = [s for low, high in reachable for s in self._feed.positions(channel, items, low, high)]
        if not found:
            return self._problem(
                "sync", f"{channel} was told as {items}; it was never so at {self._stretches}, or before {floor}"
            )
        self._stretches = _merged(found)
        self._leaving.discard(channel)
        self._live.add(channel)
        self.seen = max(self.seen, self._stretches[0][0])
        return None

    def _reach(self, position: int) -> int:
        """How far the feed may have moved on from here without a frame for this connection."""
        due = self._feed.next_due(self._live, position)
        return self._feed.head if due is None else due - 1

    def _finish_run(self, *, is_last: bool = False) -> Problem | None:
        """The frames of one commit are all here, unless the connection broke in their midst."""
        if not self._run:
            return None
        number = self._feed.commit_of[self._run[0]]
        needed = self._feed.last_due(self._live, number)
        before = [(max(low, needed), min(high, number - 1)) for low, high in self._stretches]
        before = [(low, high) for low, high in before if low <= high]
        if not before:
            return self._out_of_place(number, needed)
        # Who was left, and has missed something since, gets no more.
        self._leaving = {c for c in self._leaving if self._feed.last_due([c], number) <= before[-1][1]}
        for group in dict.fromkeys((*self._feed.groups(number), *(Group(m.stream, m.group_id) for m in self._run))):
            problem = self._check_part(number, group, is_last)
            if problem is not None:
                return problem
        self._stretches = [(number, number)]
        self.seen = max(self.seen, number)
        self._run = []
        return None

    def _out_of_place(self, number: int, needed: int) -> Problem:
        if all(low >= number for low, _ in self._stretches):
            return self._problem("repeated", f"{self._run} of commit {number} came at {self._stretches}")
        return self._problem("lost", f"commit {needed} did not come: {self._stretches}, then commit {number}")

    def _check_part(self, number: int, group: Group, is_last: bool) -> Problem | None:
        got = [message for message in self._run if (message.stream, message.group_id) == group]
        whole = self._feed.messages(number, group)
        leaving = [c for c in self._leaving if c.group == group and any(m.concerns(c) for m in whole)]
        for still in _subsets(leaving):
            listening = [c for c in self._live if c.group == group] + list(still)
            wanted = [message for message in whole if any(message.concerns(c) for c in listening)]
            if got == wanted or (is_last and got == wanted[: len(got)]):
                self._leaving -= set(leaving) - set(still)
                return None
        due = [message for message in whole if any(message.concerns(c) for c in self._live)]
        kind = "half" if set(got) < set(due) else "order" if set(got) == set(due) else "extra"
        kind = "repeated" if len(got) > len(set(got)) else kind
        return self._problem(kind, f"of commit {number}, {tuple(group)} got {got}, where due was {due}")

    def _problem(self, kind: str, detail: str) -> Problem:
        return Problem(kind, self._where, detail)


def _channel(body: Document) -> Channel:
    return Channel(body["streamName"], body["groupId"], body.get("id"))


def _items(data: object) -> Items:
    if isinstance(data, list):
        return {item["id"]: item for item in data}
    return {data["id"]: data} if isinstance(data, dict) else {}


def _subsets(channels: list[Channel]) -> Iterable[tuple[Channel, ...]]:
    return chain.from_iterable(combinations(channels, size) for size in range(len(channels), -1, -1))


def _merged(stretches: list[Stretch]) -> list[Stretch]:
    merged: list[Stretch] = []
    for low, high in sorted(stretches):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return merged
