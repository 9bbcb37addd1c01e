"""One connection in `tidelog.v1` that compares every message with what the model says must come next."""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from tests.faults.model import Item, Key, Model, NetChange, Target
from tests.harness import Frame, Server

MESSAGE_TIMEOUT_SECONDS = 60
SUBPROTOCOL: Any = "tidelog.v1"
# The kernel takes little from the server, so that one who doesn't read fills the server's own buffer.
RECEIVE_BUFFER_BYTES = 4096
SEGMENT_BYTES = 1000


@dataclass(eq=False)
class Subscription:
    """What a client knows of one: `items` are those of `position`; None while there is no complete snapshot."""

    name: str
    target: Target
    position: int | None
    items: dict[str, Item]
    must_be_reset: bool
    unsubscribed_before: list[Subscription]
    is_live: bool = False
    is_unsubscribed: bool = False
    is_gone: bool = False  # unsubscribed, and the server knows
    marks: set[tuple[int, str | None]] = field(default_factory=set)  # a group's are the items', too
    page_position: int = 0  # of the snapshot that comes; before its first page, the least that it may have


@dataclass(eq=False)
class Peer:
    """A connection. `socket` is only read in `next`, and one message ahead."""

    socket: ClientConnection
    model: Model
    epoch: str
    subscriptions: dict[str, Subscription] = field(default_factory=dict)

    @classmethod
    async def connect(cls, server: Server, model: Model, epoch: str) -> Peer:
        plain = socket.socket()
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
        plain.setblocking(False)
        await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", server.port))
        return cls(
            await connect(
                server.ws_url, sock=plain, subprotocols=[SUBPROTOCOL], max_size=None, max_queue=1, ping_interval=None
            ),
            model,
            epoch,
        )

    @property
    def current(self) -> list[Subscription]:
        return [subscription for subscription in self.subscriptions.values() if not subscription.is_unsubscribed]

    @property
    def is_settling(self) -> bool:
        """Whether a message must come, whatever happens."""
        return not all(subscription.is_live for subscription in self.current)

    async def subscribe(self, name: str, target: Target, since: int | None) -> None:
        unsubscribed = [one for one in self.subscriptions.values() if one.is_unsubscribed]
        items = {} if since is None else self.model.fold(since, target)
        is_too_old = since is not None and since < self.model.floor
        self.subscriptions[name] = Subscription(name, target, since, items, is_too_old, unsubscribed)
        place = {} if since is None else {"since": since, "epoch": self.epoch}
        stream, group, item = target
        await self._say({"type": "subscribe", "id": name, "stream": stream, "group": group, "item": item, **place})

    async def unsubscribe(self, subscription: Subscription) -> None:
        subscription.is_unsubscribed = True
        await self._say({"type": "unsubscribe", "id": subscription.name})

    async def drop(self) -> None:
        """The connection is lost."""
        self.socket.transport.abort()
        await self.socket.wait_closed()

    async def next(self) -> None:
        """Take the next message. All that is committed must have its number in the model."""
        async with asyncio.timeout(MESSAGE_TIMEOUT_SECONDS):
            frame: Frame = json.loads(await self.socket.recv())
        kind = frame["type"]
        if kind in ("commit", "event"):
            self._take_happening(frame, [self._named(name) for name in frame["subscriptions"]])
            return
        assert kind in ("snapshot", "live", "reset"), frame
        subscription = self._named(frame["subscription"])
        for other in subscription.unsubscribed_before:
            other.is_gone = True
        assert frame["epoch"] == self.epoch
        if kind == "reset":
            self._take_reset(subscription, frame)
            return
        assert not subscription.must_be_reset, frame
        if kind == "snapshot":
            self._take_page(subscription, frame)
        else:
            self._take_live(subscription, frame["position"])

    async def read_past(self, position: int) -> None:
        """Read until all are live and past `position`; then what they have is what the model has there."""
        while not all(one.is_live and (one.position or 0) >= position for one in self.current):
            await self.next()
        for subscription in self.current:
            assert subscription.position is not None
            assert subscription.items == self.model.fold(subscription.position, subscription.target)

    def _named(self, name: str) -> Subscription:
        subscription = self.subscriptions[name]
        assert not subscription.is_gone, f"{name} was unsubscribed"
        return subscription

    def _take_happening(self, frame: Frame, named: list[Subscription]) -> None:
        """A commit's changes, or a mark."""
        position = frame["position"]
        assert named and len(set(named)) == len(named), frame
        for one in named:
            assert one.position is not None and not one.must_be_reset, frame
            self._expect_nothing_between(one, position)
        if frame["type"] == "event":
            # One commit has marks for all; with the first, all that are live are at its position.
            assert self.model.marks[frame["event"]["type"]] == position, frame
            for one in named:
                mark = (position, frame.get("id"))
                assert one.position is not None and one.position <= position and mark not in one.marks, (frame, one)
                one.marks.add(mark)
        else:
            assert all(one.position is not None and one.position < position for one in named), frame
            wanted = [
                change
                for change in self.model.commits.get(position, [])
                if any(one.target.has(change.key) for one in named)
            ]
            assert [_change(change) for change in frame["changes"]] == wanted
            for one in named:
                self._fold(one, [change for change in wanted if one.target.has(change.key)])
        moved = list(named)
        if any(one.is_live for one in named):
            # It holds for all that are live on the connection.
            for one in self.subscriptions.values():
                if one.is_live and not one.is_unsubscribed and one not in named:
                    self._expect_nothing_between(one, position + 1)
                    moved.append(one)
        for one in moved:
            one.position = position

    def _take_reset(self, subscription: Subscription, frame: Frame) -> None:
        assert frame["reason"] == "too_old", frame
        assert subscription.position is not None and subscription.position < self.model.floor, (frame, subscription)
        subscription.position, subscription.items = None, {}
        subscription.is_live = subscription.must_be_reset = False
        subscription.page_position = frame["position"]

    def _take_page(self, subscription: Subscription, frame: Frame) -> None:
        assert subscription.position is None and not subscription.is_live, frame
        position = frame["position"]
        if subscription.items:
            assert position == subscription.page_position, frame
        assert position >= subscription.page_position, (frame["position"], subscription)
        subscription.page_position = position
        for item in frame["items"]:
            assert item["id"] not in subscription.items, frame
            subscription.items[item["id"]] = Item(item["version"], item["data"])
        if not frame["more"]:
            assert subscription.items == self.model.fold(position, subscription.target)
            subscription.position = position

    def _take_live(self, subscription: Subscription, position: int) -> None:
        assert subscription.position is not None and not subscription.is_live
        assert position >= subscription.position
        self._expect_nothing_between(subscription, position + 1)
        subscription.position = position
        subscription.is_live = True

    def _expect_nothing_between(self, subscription: Subscription, position: int) -> None:
        assert subscription.position is not None
        missed = list(self.model.between(subscription.position, position, subscription.target))
        assert not missed, f"{subscription.name} was not told of the commits {missed}"

    def _fold(self, subscription: Subscription, changes: list[NetChange]) -> None:
        assert changes, f"the commit was not for {subscription.name}"
        for op, key, item in changes:
            if op == "delete":
                del subscription.items[key.id]
            else:
                subscription.items[key.id] = item

    async def _say(self, message: dict[str, Any]) -> None:
        await self.socket.send(json.dumps(message))


def _change(change: dict[str, Any]) -> NetChange:
    key = Key(change["stream"], change["group"], change["id"])
    return NetChange(change["op"], key, Item(change["version"], change["data"]))
