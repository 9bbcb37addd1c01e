"""One subscription: where it stands, and what waits for its consumer. It outlives connections."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Protocol, Self

from tidelog.client.messages import Commit, Event, Frame, Live, Message, Reset, Snapshot, commit, event, snapshot

# What may wait for a slow consumer. Past it the connection is not read, and so the server is slowed.
MESSAGES_MAX = 1000
BYTES_MAX = 16 * 1024 * 1024

Place = tuple[int, str]  # position and epoch


class Connection(Protocol):
    """Where a subscription is opened and closed."""

    async def open(self, subscription: Subscription) -> None: ...

    async def close(self, subscription: Subscription) -> None: ...


class Subscription:
    """An async iterator of messages. It is subscribed while it is iterated, or as long as an `async with` on it.

    `position` and `epoch` tell where its consumer stands, to be stored and given to another `subscribe` later. They
    are those of the message handed out last, or newer if nothing has happened since; None while a snapshot is
    incomplete.
    """

    def __init__(
        self, connection: Connection, id: str, stream: str, group: str, item: str | None, place: Place | None
    ) -> None:
        self.id = id
        self.stream = stream
        self.group = group
        self.item = item
        self.is_live = False
        self._connection = connection
        # Where to resume: everything up to here has come, though perhaps not been handed out.
        self._reached = self._handed_out = place
        self._seen = 0 if place is None else place[0]  # commits up to here are repetitions
        self._is_partial = False  # in the middle of a snapshot
        self._is_open = self._was_opened = False
        self._waiting: deque[tuple[Message, Place | None, int]] = deque()
        self._waiting_bytes = 0
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._ended: Exception | bool = False  # True: without an error

    @property
    def position(self) -> int | None:
        place = self._handed_out if self._waiting else self._reached
        return None if place is None else place[0]

    @property
    def epoch(self) -> str | None:
        place = self._handed_out if self._waiting else self._reached
        return None if place is None else place[1]

    @property
    def waiting(self) -> int:
        """How many messages have come and were not handed out yet."""
        return len(self._waiting)

    async def __aenter__(self) -> Self:
        if self._was_opened:
            raise RuntimeError("a subscription is used once: subscribe again, with its position and epoch to go on")
        self._is_open = self._was_opened = True
        await self._connection.open(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_open = False
        self.end()
        await self._connection.close(self)

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Ends with the client; raises what the server refused the subscription with, or what ended the client."""
        if self._is_open:
            while (message := await self._next()) is not None:
                yield message
        else:
            async with self:
                while (message := await self._next()) is not None:
                    yield message

    async def _next(self) -> Message | None:
        while not self._waiting:
            if isinstance(self._ended, Exception):
                raise self._ended
            if self._ended:
                return None
            self._filled.clear()
            await self._filled.wait()
        message, self._handed_out, size = self._waiting.popleft()
        self._waiting_bytes -= size
        self._room.set()
        return message

    # What the connection tells:

    def request(self) -> dict[str, Any]:
        """The frame that subscribes, or resumes, on a new connection."""
        self.is_live = False
        frame: dict[str, Any] = {
            "type": "subscribe", "id": self.id, "stream": self.stream, "group": self.group, "item": self.item
        }  # fmt: skip
        if self._reached is not None:
            frame["since"], frame["epoch"] = self._reached
        elif self._is_partial:
            self._is_partial = False
            self._put(Reset("connection_lost"), 0)
        return frame

    async def receive(self, frame: Frame, size: int) -> None:
        """Take in a frame about this subscription; waits while the consumer has too much to do."""
        while self._is_full and not self._ended:
            self._room.clear()
            await self._room.wait()
        message = self._take(frame)
        if message is not None:
            self._put(message, size)

    def reach(self, position: int, epoch: str | None = None) -> None:
        """The connection has come to this position, and nothing before it is to come for a live subscription.

        In this epoch, if one is given: it may be a new one.
        """
        if self.is_live and self._reached is not None and self._reached[0] <= position:
            self._reached = (position, epoch or self._reached[1])

    def end(self, error: Exception | None = None) -> None:
        """Nothing more will come. What is waiting is handed out, and then `error` raised."""
        if not self._ended:
            self._ended = error or True
        self._filled.set()
        self._room.set()

    @property
    def _is_full(self) -> bool:
        return len(self._waiting) >= MESSAGES_MAX or self._waiting_bytes >= BYTES_MAX

    def _put(self, message: Message, size: int) -> None:
        if not self._ended:
            self._waiting.append((message, self._reached, size))
            self._waiting_bytes += size
            self._filled.set()

    def _take(self, frame: Frame) -> Message | None:
        """The message to hand out, if it isn't one that was seen before; `_reached` is as of this message."""
        match frame["type"]:
            case "snapshot":
                return self._take_snapshot(snapshot(frame))
            case "commit":
                return self._take_commit(commit(frame, self.stream, self.group, self.item))
            case "event":
                return self._take_event(event(frame))
            case "live":
                self.is_live = True
                self._seen = frame["position"]
                self._reached = (frame["position"], frame["epoch"])
                return Live(frame["position"], frame["epoch"])
            case "reset":
                self.is_live = self._is_partial = False
                self._reached = None
                return Reset(frame["reason"])
        return None

    def _take_snapshot(self, page: Snapshot) -> Snapshot:
        self._is_partial = page.more
        self._seen = page.position
        self._reached = None if page.more else (page.position, page.epoch)
        return page

    def _take_commit(self, commit: Commit) -> Commit | None:
        if commit.position <= self._seen:
            return None
        self._seen = commit.position
        if self._reached is not None:
            self._reached = (commit.position, self._reached[1])
        return commit

    def _take_event(self, event: Event) -> Event | None:
        # Events come behind the changes of their commit, so one of the position that was seen last is no repetition.
        return event if event.position >= self._seen else None
