"""A WebSocket server that sends what a test tells it to: real sockets, scripted frames."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from tidelog.client import Message, Subscription

WAIT_SECONDS = 60
EPOCH = "11111111-1111-1111-1111-111111111111"
AT = "2026-01-31T12:00:00.000000Z"

Frame = dict[str, Any]


class Connection:
    """The server's end of one connection."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket

    async def receive(self) -> Frame:
        async with asyncio.timeout(WAIT_SECONDS):
            return dict(json.loads(await self.socket.recv()))

    async def send(self, *frames: Frame) -> None:
        for frame in frames:
            await self.socket.send(json.dumps(frame))

    async def close(self, code: int) -> None:
        await self.socket.close(code, "as the test says")

    def lose(self) -> None:
        """The connection is gone without a word."""
        self.socket.transport.abort()

    async def accept(self, *frames: Frame) -> Frame:
        """Take a subscribe, send frames with its id where they have none, and answer it."""
        request = await self.receive()
        assert request["type"] == "subscribe"
        await self.send(*(for_subscription(frame, request["id"]) for frame in frames))
        return request


class ScriptedServer:
    """Listens; a test takes its connections one by one."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[Request] = []
        self.refusals: list[int] = []  # HTTP statuses for the next handshakes
        self.subprotocols: list[Subprotocol] | None = [Subprotocol("tidelog.v1")]
        self._connections: asyncio.Queue[Connection] = asyncio.Queue()

    @classmethod
    @asynccontextmanager
    async def start(cls) -> AsyncIterator[ScriptedServer]:
        self = cls()
        async with serve(
            self._handle,
            "127.0.0.1",
            0,
            select_subprotocol=lambda _, offered: self.subprotocols[0] if self.subprotocols else None,
            process_request=self._process,
            close_timeout=1,
            max_queue=None,
        ) as server:
            host, port = next(iter(server.sockets)).getsockname()
            self.url = f"ws://{host}:{port}"
            yield self

    async def connection(self) -> Connection:
        """The next connection that a client made."""
        async with asyncio.timeout(WAIT_SECONDS):
            return await self._connections.get()

    async def _handle(self, socket: ServerConnection) -> None:
        self._connections.put_nowait(Connection(socket))
        await socket.wait_closed()

    async def _process(self, socket: ServerConnection, request: Request) -> Response | None:
        self.requests.append(request)
        return socket.respond(self.refusals.pop(0), "as the test says") if self.refusals else None


async def take(subscription: Subscription, count: int) -> list[Message]:
    """The next messages of an opened subscription."""
    messages: list[Message] = []
    async with asyncio.timeout(WAIT_SECONDS):
        async for message in subscription:
            messages.append(message)
            if len(messages) == count:
                break
    return messages


def for_subscription(frame: Frame, id: str) -> Frame:
    """The frame, addressed to a subscription, if it isn't yet."""
    if frame["type"] in ("commit", "event"):
        return {"subscriptions": [id], **frame}
    return {"subscription": id, **frame}


def snapshot(position: int, *ids: str, more: bool = False, epoch: str = EPOCH) -> Frame:
    items = [{"id": id, "version": 1, "data": {"id": id, "text": f"{id} at {position}"}} for id in ids]
    return {"type": "snapshot", "position": position, "epoch": epoch, "items": items, "more": more}


def live(position: int, epoch: str = EPOCH) -> Frame:
    return {"type": "live", "position": position, "epoch": epoch}


def change(id: str, op: str = "update", group: str = "general", text: str = "") -> Frame:
    data = {"id": id, "text": text}
    return {"op": op, "stream": "chatMessage", "group": group, "id": id, "version": 2, "data": data}


def commit(position: int, *changes: Frame, to: list[str] | None = None) -> Frame:
    frame = {"type": "commit", "position": position, "at": AT, "changes": list(changes) or [change("a")]}
    return frame if to is None else frame | {"subscriptions": to}


def event(position: int, type: str = "typing", to: list[str] | None = None, **rest: Any) -> Frame:
    frame = {"type": "event", "position": position, "stream": "chatMessage", "group": "general", **rest}
    frame["event"] = {"type": type, "data": {"author": "ada"}}
    return frame if to is None else frame | {"subscriptions": to}


def reset(reason: str, position: int, epoch: str = EPOCH) -> Frame:
    return {"type": "reset", "reason": reason, "position": position, "epoch": epoch}
