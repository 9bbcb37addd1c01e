"""A connection in the dialect `tidelog.v1`, for tests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from tests.harness import Server

TIMEOUT_SECONDS = 60
SUBPROTOCOL: Any = "tidelog.v1"


class Peer:
    """One connection in `tidelog.v1`."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def say(self, type: str, **parts: Any) -> None:
        await self.socket.send(json.dumps({"type": type, **parts}))

    async def subscribe(self, id: str, group: str, **parts: Any) -> None:
        await self.say("subscribe", **{"id": id, "stream": "alpha", "group": group, **parts})

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            return dict(json.loads(await self.socket.recv()))

    async def until(self, type: str) -> list[dict[str, Any]]:
        """All messages up to the first of this type."""
        messages = [await self.next()]
        while messages[-1]["type"] != type:
            messages.append(await self.next())
        return messages


@asynccontextmanager
async def peer(server: Server) -> AsyncIterator[Peer]:
    async with connect(
        server.ws_url,
        subprotocols=[SUBPROTOCOL],
        max_size=None,
        proxy=None,
        open_timeout=TIMEOUT_SECONDS,
        ping_interval=None,  # one that doesn't read sees no pong
    ) as socket:
        assert socket.subprotocol == SUBPROTOCOL
        yield Peer(socket)


def fold(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The state that these messages lead to."""
    items: dict[str, Any] = {}
    for message in messages:
        if message["type"] == "reset":
            items.clear()
        for item in message.get("items", ()):
            items[item["id"]] = item["data"]
        for change in message.get("changes", ()):
            if change["op"] == "delete":
                del items[change["id"]]
            else:
                items[change["id"]] = change["data"]
    return items
