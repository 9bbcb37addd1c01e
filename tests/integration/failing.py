"""app.main:app for tests of what can't be sent: a client that asks for `/fails` gets no commits, but an error of ours.

What it is sent fails at the first commit, by whatever way it goes: uvicorn's transport, or ASGI's `send`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from litestar.types import Message, Receive, Scope, Send

from app.main import app as served
from tidelog.web.protocol import EXTENSION


class FailingTransport:
    """A transport that can't write what has a commit in it."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def write(self, data: bytes) -> None:
        check(data)
        self._transport.write(data)

    def writelines(self, parts: Iterable[bytes]) -> None:
        self.write(b"".join(parts))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def check(data: bytes) -> None:
    if b'"type":"commit"' in data or b'"type":"create"' in data:
        raise ValueError("a fault of ours")


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "websocket" or not scope["path"].startswith("/fails"):
        await served(scope, receive, send)
        return
    protocol = cast("dict[str, Any]", scope["extensions"]).get(EXTENSION)

    async def send_or_fail(message: Message) -> None:
        check(str(cast("dict[str, Any]", message).get("text")).encode())
        await send(message)
        if protocol is not None and message["type"] == "websocket.accept":
            protocol.transport = FailingTransport(protocol.transport)

    await served(scope, receive, send_or_fail)
