"""Subscribers that write down everything: what they sent, every frame that came, where each connection ended.

Each reconnects, perhaps to another server, for as long as the run goes on. Knows nothing of what is right.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from random import Random
from typing import Any, Literal, NamedTuple

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

from tests.faults.feed import stamp_of
from tests.faults.history import Channel, Connection, Document, Record, Subscriber
from tests.proxy import narrow

# A connection that is silently dead is found out by this, and not only after the library's 20 s.
PING_SECONDS = 3.0
CONNECT_TIMEOUT_SECONDS = 5.0
PAUSE_SECONDS = (0.02, 0.4)  # before coming back
RESTLESS_SECONDS = (0.2, 3.0)  # between leaving, joining and dropping the connection
DROP_PROBABILITY = 0.2
NAP_PROBABILITY = 0.02  # before each frame
NAP_SECONDS = (0.5, 2.5)  # shorter than a ping may take

Key = tuple[str, str, str]  # of an item


class Place(NamedTuple):
    """A server's address, and the name by which the history knows it."""

    name: str
    address: str  # host:port


class Recorder(ABC):
    """One subscriber. `run` it until `finished`, which is set once every item has come with the final stamp."""

    dialect: Literal["motia", "tidelog.v1"]
    subprotocols: Sequence[Subprotocol] | None = None

    def __init__(
        self,
        name: str,
        channels: Sequence[Channel],
        places: Sequence[Place],
        random: Random,
        *,
        is_restless: bool,
        is_lazy: bool,
    ) -> None:
        """Restless: it leaves, joins, and drops its connection. Lazy: at times it takes nothing that comes."""
        self.subscriber = Subscriber(name, self.dialect)
        self.finished = asyncio.Event()
        self._channels = list(channels)
        self._places = places
        self._random = random
        self._is_restless = is_restless
        self._is_lazy = is_lazy
        self._final: tuple[str, frozenset[Key]] | None = None
        self.reached: set[Key] = set()

    def end_at(self, stamp: str, keys: frozenset[Key]) -> None:
        """Finish once all these items, as far as this subscriber's channels have them, bear this stamp."""
        self._final = (stamp, frozenset(key for key in keys if any(_covers(c, key) for c in self._channels)))

    async def run(self) -> None:
        """Connect, record, and come back, until finished or cancelled."""
        while not self.finished.is_set():
            place = self._random.choice(self._places)
            connection = Connection(place.name)
            try:
                async with self._connect(place) as socket:
                    self.subscriber.connections.append(connection)
                    await self._converse(socket, connection)
            except (OSError, WebSocketException, TimeoutError) as error:
                connection.ended = f"{type(error).__name__}: {error}"
            await asyncio.sleep(self._random.uniform(*PAUSE_SECONDS))

    @abstractmethod
    async def begin(self, socket: ClientConnection, connection: Connection) -> None:
        """Subscribe to what this connection begins with."""

    @abstractmethod
    async def fidget(self, socket: ClientConnection, connection: Connection) -> None:
        """Change something about the subscriptions."""

    @abstractmethod
    async def calm(self, socket: ClientConnection, connection: Connection) -> None:
        """Subscribe to all channels that are not subscribed to."""

    @abstractmethod
    def is_answered(self) -> bool:
        """Whether every subscription of this connection has begun."""

    @abstractmethod
    def items_of(self, frame: Document) -> list[tuple[Key, str]]:
        """The items in a frame and their stamps, and do what the dialect needs done with it."""

    def _connect(self, place: Place) -> connect:
        host, port = place.address.split(":")
        raw = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if self._is_lazy:
            narrow(raw)
        try:
            raw.connect((host, int(port)))  # a proxy of our own, on loopback: it is there at once
        except OSError:
            raw.close()
            raise
        raw.setblocking(False)
        return connect(
            f"ws://{place.address}",
            sock=raw,
            subprotocols=self.subprotocols,
            max_size=None,
            max_queue=1 if self._is_lazy else 16,
            proxy=None,
            open_timeout=CONNECT_TIMEOUT_SECONDS,
            ping_interval=PING_SECONDS,
            ping_timeout=PING_SECONDS,
            close_timeout=1,
        )

    async def _converse(self, socket: ClientConnection, connection: Connection) -> None:
        await self.begin(socket, connection)
        receiving = asyncio.create_task(self._receive(socket, connection))
        try:
            while not receiving.done() and self._final is None:
                await asyncio.wait([receiving], timeout=self._random.uniform(*RESTLESS_SECONDS))
                if self._is_restless and self._final is None and not receiving.done():
                    if self._random.random() < DROP_PROBABILITY:
                        connection.ended = "dropped by the subscriber"
                        return
                    await self.fidget(socket, connection)
            await self.calm(socket, connection)
            await receiving
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)

    async def _receive(self, socket: ClientConnection, connection: Connection) -> None:
        """Record frames until the connection ends, or the last of what was written is here."""
        while True:
            if self._is_lazy and self._final is None and self._random.random() < NAP_PROBABILITY:
                await asyncio.sleep(self._random.uniform(*NAP_SECONDS))
            frame = json.loads(await socket.recv())
            connection.records.append(Record(time.monotonic_ns(), "frame", frame))
            items = self.items_of(frame)
            if self._final is not None:
                stamp, keys = self._final
                self.reached |= {key for key, found in items if found == stamp}
                if keys <= self.reached and self.is_answered():
                    connection.is_complete = True
                    self.finished.set()
                    return

    async def _send(
        self, socket: ClientConnection, connection: Connection, kind: Literal["join", "leave"], message: Document
    ) -> None:
        connection.records.append(Record(time.monotonic_ns(), kind, message.get("data", message)))
        await socket.send(json.dumps(message))


class MotiaRecorder(Recorder):
    """Speaks Motia's dialect: joins everything anew on each connection."""

    dialect = "motia"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._joined: dict[Channel, str] = {}
        self._synced: set[Channel] = set()
        self._serial = 0

    async def begin(self, socket: ClientConnection, connection: Connection) -> None:
        self.reached.clear()
        self._joined.clear()
        self._synced.clear()
        await self.calm(socket, connection)

    async def fidget(self, socket: ClientConnection, connection: Connection) -> None:
        channel = self._random.choice(self._channels)
        if channel in self._synced:  # before that nobody could tell whose sync comes after the next join
            self._synced.discard(channel)
            await self._tell(socket, connection, "leave", channel, self._joined.pop(channel))
        elif channel not in self._joined:
            await self._join(socket, connection, channel)

    async def calm(self, socket: ClientConnection, connection: Connection) -> None:
        for channel in self._random.sample(self._channels, len(self._channels)):
            if channel not in self._joined:
                await self._join(socket, connection, channel)

    def is_answered(self) -> bool:
        return self._synced >= set(self._channels)

    def items_of(self, frame: Document) -> list[tuple[Key, str]]:
        data = frame["event"].get("data")
        if frame["event"]["type"] == "sync":
            self._synced.add(Channel(frame["streamName"], frame["groupId"], frame.get("id")))
        items = data if isinstance(data, list) else [data] if isinstance(data, dict) else []
        return [((frame["streamName"], frame["groupId"], item["id"]), stamp_of(item)) for item in items]

    async def _join(self, socket: ClientConnection, connection: Connection, channel: Channel) -> None:
        self._serial += 1
        self._joined[channel] = f"s{self._serial}"
        await self._tell(socket, connection, "join", channel, self._joined[channel])

    async def _tell(
        self,
        socket: ClientConnection,
        connection: Connection,
        kind: Literal["join", "leave"],
        channel: Channel,
        name: str,
    ) -> None:
        data = {"streamName": channel.stream, "groupId": channel.group_id, "id": channel.item_id}
        await self._send(socket, connection, kind, {"type": kind, "data": data | {"subscriptionId": name}})


def _covers(channel: Channel, key: Key) -> bool:
    return channel.group == key[:2] and channel.item_id in (None, key[2])
