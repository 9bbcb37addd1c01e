"""A recording subscriber that speaks tidelog.v1: it comes back with its position, and never starts anew."""

from __future__ import annotations

from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.typing import Subprotocol

from tests.faults.feed import stamp_of
from tests.faults.history import Channel, Connection, Document
from tests.faults.recorder import Key, Recorder


class Standing:
    """How far a channel has come, over all connections."""

    def __init__(self) -> None:
        self.name = ""  # of its present subscription
        self.position: int | None = None
        self.epoch: str | None = None


class TidelogRecorder(Recorder):
    """Resumes every channel where it stands, on whatever server answers."""

    dialect = "tidelog.v1"
    subprotocols = (Subprotocol("tidelog.v1"),)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._standings = {channel: Standing() for channel in self._channels}
        self._by_name: dict[str, Channel] = {}
        self._live: set[str] = set()
        self._serial = 0

    async def begin(self, socket: ClientConnection, connection: Connection) -> None:
        self._by_name.clear()
        await self.calm(socket, connection)

    async def fidget(self, socket: ClientConnection, connection: Connection) -> None:
        channel = self._random.choice(self._channels)
        name = self._standings[channel].name
        if name in self._by_name:
            del self._by_name[name]
            self._live.discard(name)
            await self._send(socket, connection, "leave", {"type": "unsubscribe", "id": name})
        else:
            await self._subscribe(socket, connection, channel)

    async def calm(self, socket: ClientConnection, connection: Connection) -> None:
        for channel in self._random.sample(self._channels, len(self._channels)):
            if self._standings[channel].name not in self._by_name:
                await self._subscribe(socket, connection, channel)

    def is_answered(self) -> bool:
        return all(standing.name in self._live for standing in self._standings.values())

    def items_of(self, frame: Document) -> list[tuple[Key, str]]:
        if frame["type"] == "commit":
            for name in frame["subscriptions"]:
                self._move(name, frame["position"])
            return [((c["stream"], c["group"], c["id"]), stamp_of(c["data"])) for c in frame["changes"]]
        if frame["type"] == "event":
            for name in frame["subscriptions"]:
                self._move(name, frame["position"])
        channel = self._by_name.get(frame.get("subscription", ""))
        if channel is None:
            return []
        if frame["type"] == "snapshot":
            self._standings[channel].epoch = frame["epoch"]
            if not frame["more"]:
                self._move(frame["subscription"], frame["position"])
            return [((*channel.group, item["id"]), stamp_of(item["data"])) for item in frame["items"]]
        if frame["type"] == "live":
            self._live.add(frame["subscription"])
            self._move(frame["subscription"], frame["position"])
        return []

    def _move(self, name: str, position: int) -> None:
        """A subscription has everything up to here. One that was left may still be told; it counts for nothing."""
        if name in self._by_name:
            standing = self._standings[self._by_name[name]]
            standing.position = max(standing.position or 0, position)

    async def _subscribe(self, socket: ClientConnection, connection: Connection, channel: Channel) -> None:
        self._serial += 1
        standing = self._standings[channel]
        standing.name = f"c{self._serial}"
        self._by_name[standing.name] = channel
        message: Document = {
            "type": "subscribe",
            "id": standing.name,
            "stream": channel.stream,
            "group": channel.group_id,
        }
        if channel.item_id is not None:
            message["item"] = channel.item_id
        if standing.position is not None:
            message |= {"since": standing.position, "epoch": standing.epoch}
        await self._send(socket, connection, "join", message)
