"""What Motia's client makes of the frames: it drops what it takes for old, by timestamp.

The rules are those of `StreamGroupSubscription` and `StreamItemSubscription` in @motiadev/stream-client
0.13. A frame that is dropped where it would have changed something has left its user with a wrong picture.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.faults.feed import Feed, Items
from tests.faults.history import Channel, Connection, Document, Group, Subscriber
from tests.faults.problem import Problem


class ItemView:
    """A subscription to one item; it drops whatever is not newer than the last."""

    def __init__(self) -> None:
        self.items: Items = {}
        self.is_waiting = True  # for its sync
        self._last = 0.0

    def take(self, frame: Document) -> bool:
        """Whether the frame was taken, or nothing is lost without it."""
        event = frame["event"]
        after = {} if event["type"] == "delete" or event.get("data") is None else {frame["id"]: event["data"]}
        if frame["timestamp"] <= self._last:
            return event["type"] != "event" and after == self.items
        self._last = frame["timestamp"]
        if event["type"] != "event":
            self.items = after
        return True


class GroupView:
    """A subscription to a group; it drops older syncs, and updates not newer than the item's last."""

    def __init__(self) -> None:
        self.items: Items = {}
        self.is_waiting = True  # for its sync
        self._last = 0.0
        self._last_of: dict[str, float] = {}

    def take(self, frame: Document) -> bool:
        """Whether the frame was taken, or nothing is lost without it."""
        time, event = frame["timestamp"], frame["event"]
        if event["type"] == "sync":
            after = {item["id"]: item for item in event["data"]}
            if time < self._last:
                return after == self.items
            self._last, self._last_of, self.items = time, {}, after
        elif event["type"] == "create":
            stored: Document = self.items.setdefault(event["data"]["id"], event["data"])
            return bool(stored == event["data"])
        elif event["type"] == "update":
            id = event["data"]["id"]
            if self._last_of.get(id, 0) >= time or id not in self.items:
                return bool(self.items.get(id) == event["data"])
            self._last = self._last_of[id] = time
            self.items[id] = event["data"]
        elif event["type"] == "delete":
            self._last = self._last_of[event["data"]["id"]] = time
            self.items.pop(event["data"]["id"], None)
        return True


def check_views(subscriber: Subscriber, feed: Feed) -> Iterator[Problem]:
    """Motia's client, given these frames over all its connections, ends with what the tables have."""
    views: dict[Channel, ItemView | GroupView] = {}
    for index, connection in enumerate(subscriber.connections, start=1):
        where = f"{subscriber.name}, connection {index} ({connection.server})"
        for frame in _dropped(connection, views):
            yield Problem("client", where, f"Motia's client would drop {frame}")
            return
        if connection.is_complete:
            for channel, view in views.items():
                if view.items != (table := feed.items(channel, feed.head)):
                    yield Problem("client", where, f"Motia's client shows {view.items} of {channel}, not {table}")


def _dropped(connection: Connection, views: dict[Channel, ItemView | GroupView]) -> Iterator[Document]:
    for record in connection.records:
        body = record.body
        if record.kind == "join":
            channel = Channel(body["streamName"], body["groupId"], body.get("id"))
            views.setdefault(channel, GroupView() if channel.item_id is None else ItemView()).is_waiting = True
        elif record.kind == "leave":
            views.pop(Channel(body["streamName"], body["groupId"], body.get("id")), None)
        else:
            for view in _rooms(body, views):
                is_sync = body["event"]["type"] == "sync"
                view.is_waiting = view.is_waiting and not is_sync
                # What comes before the sync (through another subscription) is of no use without it.
                if not view.take(body) and not view.is_waiting:
                    yield body


def _rooms(frame: Document, views: dict[Channel, ItemView | GroupView]) -> Iterator[ItemView | GroupView]:
    """Who gets the frame: the item's subscription and, but for a sync, the group's."""
    group = Group(frame["streamName"], frame["groupId"])
    own = Channel(*group, frame.get("id"))
    if own in views:
        yield views[own]
    if own.item_id is not None and frame["event"]["type"] != "sync" and (whole := Channel(*group, None)) in views:
        yield views[whole]
