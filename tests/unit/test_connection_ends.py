"""A connection that can't be sent to, or whose state can't be noted, ends, and nothing of it is left in the feed."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState
from websockets.frames import CloseCode

from app.feed.subscription import Messages
from app.settings import Settings
from app.web.allowance import Allowance
from app.web.outlet import SendOutlet
from app.web.protocol import SocketProtocol
from app.web.socket import SocketGate
from tests.faults.wire import handshake
from tests.harness import eventually
from tests.unit.test_containment import commit, open_feed, publish

JOIN = {"type": "subscribe", "id": "s", "stream": "chatMessage", "group": "one"}
HELLO = Messages([b"hello"])
ENOUGH = Allowance(1000, 1000)
GONE = [OSError("gone"), RuntimeError("after close"), ValueError("a fault of ours")]


@pytest.mark.parametrize("closes", [True, False], ids=["can be closed", "can't be closed"])
@pytest.mark.parametrize("error", GONE, ids=lambda error: type(error).__name__)
async def test_a_failed_send_ends_the_connection(error: Exception, closes: bool) -> None:
    """Also on a server that doesn't tell the application that the client went away. A fault of ours is told by 1011."""
    feed = open_feed()
    incoming: asyncio.Queue[Any] = asyncio.Queue()
    sent: list[Any] = []

    async def send(message: Any) -> None:
        if message["type"] == "websocket.send" or (message["type"] == "websocket.close" and not closes):
            raise error
        sent.append(message)
        if message["type"] == "websocket.close":
            incoming.put_nowait({"type": "websocket.disconnect"})

    incoming.put_nowait({"type": "websocket.connect"})
    incoming.put_nowait({"type": "websocket.receive", "text": json.dumps(JOIN | {"stream": "unknown"})})
    gate = SocketGate(feed, {"chatMessage"}, Settings())
    scope = cast("Any", {"type": "websocket", "subprotocols": ["tidelog.v1"], "extensions": {}})
    async with asyncio.timeout(60):
        await gate.serve(scope, incoming.get, send)
    assert not feed._live
    is_ours = isinstance(error, ValueError)
    assert feed.failures.connections == is_ours
    closed = [message["code"] for message in sent if message["type"] == "websocket.close"]
    assert closed == ([CloseCode.INTERNAL_ERROR] if is_ours and closes else [])


async def test_a_message_that_fails_is_told_by_a_code() -> None:
    """What a client asks for runs into a bug: it is closed with 1011, and the feed knows it no more."""
    feed = open_feed()
    feed.subscribe = lambda _: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    incoming: asyncio.Queue[Any] = asyncio.Queue()
    codes = []

    async def send(message: Any) -> None:
        if message["type"] == "websocket.close":
            codes.append(message["code"])
            incoming.put_nowait({"type": "websocket.disconnect"})

    incoming.put_nowait({"type": "websocket.connect"})
    incoming.put_nowait({"type": "websocket.receive", "text": json.dumps(JOIN)})
    scope = cast("Any", {"type": "websocket", "subprotocols": ["tidelog.v1"], "extensions": {}})
    async with asyncio.timeout(60):
        await SocketGate(feed, {"chatMessage"}, Settings()).serve(scope, incoming.get, send)
    assert (codes, feed._live, feed.failures.connections) == ([CloseCode.INTERNAL_ERROR], {}, 1)


async def test_one_that_is_closed_while_it_is_sent_to_is_closed() -> None:
    """What was being sent is let go of; the close is not, and can be ended itself."""
    sending, closing = asyncio.Event(), asyncio.Event()

    async def send(message: Any) -> None:
        (sending if message["type"] == "websocket.send" else closing).set()
        await asyncio.Event().wait()

    outlet = SendOutlet(send, 1000, ENOUGH, lambda: None, lambda _: None, lambda: None)
    outlet.write(HELLO)
    await sending.wait()
    outlet.close(1013, "come back")
    await closing.wait()
    task = outlet._sending
    assert task is not None
    outlet.end()
    await asyncio.wait([task])
    assert task.cancelled()


class Transport(asyncio.Transport):
    """Takes everything, and remembers it."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.written = b""
        self.closing = False

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


async def accepting(_scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    await receive()


async def open_protocol() -> tuple[SocketProtocol, Transport]:
    """After the handshake."""
    protocol = SocketProtocol(Config(accepting, log_config=None), ServerState(), {})
    transport = Transport()
    protocol.connection_made(transport)
    protocol.data_received(handshake())
    await eventually(lambda: protocol.handshake_complete)
    return protocol, transport


def bug() -> None:
    raise ValueError("a fault of ours")


@pytest.mark.parametrize("hook", ["pause_writing", "resume_writing"])
async def test_one_whose_state_cannot_be_noted_is_closed(hook: str) -> None:
    """The transport says that it is full, or has room: if that is lost, nobody would bound what waits for it."""
    protocol, transport = await open_protocol()
    protocol.watch(1000, bug, bug, ENOUGH)
    getattr(protocol, hook)()
    assert CloseCode.INTERNAL_ERROR.to_bytes(2, "big") + b"the server failed" in transport.written
    protocol.connection_lost(None)


async def test_a_lost_connection_keeps_nobody_waiting() -> None:
    """Whoever waits until it has room is told, though uvicorn's part fails."""
    protocol, _ = await open_protocol()
    told = []
    protocol.watch(1000, bug, lambda: told.append(1), ENOUGH)
    protocol.connections.clear()
    with pytest.raises(KeyError):
        protocol.connection_lost(None)
    assert told


async def test_one_that_cannot_be_told_of_the_stop_hinders_no_other() -> None:
    """uvicorn tells one connection after the other, in one loop."""
    protocol, transport = await open_protocol()
    protocol.conn.send_close = lambda *_: bug()  # type: ignore[method-assign]
    protocol.shutdown()
    await eventually(transport.is_closing, timeout_seconds=60)


async def test_a_client_that_failed_is_not_served_again() -> None:
    """What it asked for before it learns of it, too."""
    feed = open_feed()
    incoming: asyncio.Queue[Any] = asyncio.Queue()
    closing = asyncio.Event()

    async def send(message: Any) -> None:
        if message["type"] == "websocket.send":
            raise ValueError("a fault of ours")
        if message["type"] == "websocket.close":
            incoming.put_nowait({"type": "websocket.receive", "text": json.dumps(JOIN)})
            closing.set()

    incoming.put_nowait({"type": "websocket.connect"})
    incoming.put_nowait({"type": "websocket.receive", "text": "?"})
    scope = cast("Any", {"type": "websocket", "subprotocols": ["tidelog.v1"], "extensions": {}})
    serving = asyncio.create_task(SocketGate(feed, {"chatMessage"}, Settings()).serve(scope, incoming.get, send))
    await closing.wait()
    await eventually(incoming.empty)
    publish(feed, commit(1))
    assert (feed.is_deserted, feed._starting) == (True, {})
    incoming.put_nowait({"type": "websocket.disconnect"})
    await serving
