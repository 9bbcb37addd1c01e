"""A connection that can't be sent to, or whose state can't be noted, ends, and nothing of it is left in the feed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, cast

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState
from websockets.frames import CloseCode

from tests.faults.wire import CONTINUATION, HEADERS, PING, PONG, TEXT, frame, handshake, request
from tests.feed_insides import left_of
from tests.harness import eventually
from tests.unit.test_containment import commit, open_feed, publish
from tidelog.feed.messages import LongMessage, Messages, PagesUnreadableError
from tidelog.settings import Settings
from tidelog.web import allowance
from tidelog.web.allowance import Allowance
from tidelog.web.gate import SocketGate
from tidelog.web.intake import Turn
from tidelog.web.protocol import SocketProtocol
from tidelog.web.send_outlet import SendOutlet

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
    assert not feed.registry.subscribers
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
    assert not feed.registry.subscribers
    assert (codes, feed.failures.connections) == ([CloseCode.INTERNAL_ERROR], 1)


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


class Unreadable:
    """Pages whose file can't be read to the end."""

    size = 2
    users = 1

    def pages(self) -> Iterator[tuple[bytes, bool]]:
        yield b"1", True
        raise PagesUnreadableError("the disk is broken")

    def hold(self) -> None:
        self.users += 1

    def close(self) -> None:
        self.users -= 1


async def test_a_long_message_that_can_not_be_read_is_a_fault_of_ours_on_any_server() -> None:
    """Not its client's, who would be taken for gone: the log would say nothing."""
    failures: list[Exception] = []
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    outlet = SendOutlet(send, 1000, ENOUGH, lambda: None, failures.append, lambda: None)
    pages = Unreadable()
    outlet.write(LongMessage(b"[", pages, b"]"))
    await eventually(lambda: failures)
    outlet.end()
    assert isinstance(failures[0], PagesUnreadableError) and (sent, pages.users) == ([], 1)


class Transport(asyncio.Transport):
    """Takes everything, and remembers it."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.written = b""
        self.closing = False

    def write(self, data: Any) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return 0

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


async def open_protocol(app: Any = accepting) -> tuple[SocketProtocol, Transport]:
    """After the handshake."""
    protocol = SocketProtocol(Config(app, log_config=None), ServerState(), {})
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
    assert not left_of(feed)
    incoming.put_nowait({"type": "websocket.disconnect"})
    await serving


async def test_a_pong_that_has_not_been_read_yet_is_life() -> None:
    """It may be among what is kept for a later turn: nobody is taken for dead before that is read."""
    protocol, transport = await open_protocol()
    protocol.send_keepalive_ping()
    assert protocol.pending_ping_payload is not None
    Turn.of(protocol.loop).left = 0
    protocol.data_received(frame(PONG, protocol.pending_ping_payload))
    protocol.keepalive_timeout()
    assert not transport.is_closing()
    await eventually(lambda: protocol.pending_ping_payload is None)
    protocol.connection_lost(None)


async def test_a_client_that_does_not_pong_is_closed() -> None:
    protocol, transport = await open_protocol()
    protocol.send_keepalive_ping()
    protocol.keepalive_timeout()
    assert transport.is_closing() and CloseCode.INTERNAL_ERROR.to_bytes(2, "big") in transport.written
    protocol.connection_lost(None)


async def test_parts_of_a_message_take_no_more_memory_than_their_bytes() -> None:
    """Most of all the empty ones, of which there is no end."""
    received: list[Any] = []

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        received.append(await receive())

    protocol, _ = await open_protocol(app)
    protocol.data_received(frame(TEXT, b"ab", first=0) + frame(CONTINUATION, first=0) * 100)
    protocol.data_received(frame(CONTINUATION, b"c", first=0) * 10)
    await eventually(lambda: [bytes(part) for part in protocol.frames] == [b"ab" + b"c" * 10])
    protocol.data_received(frame(CONTINUATION, b"d"))
    await eventually(lambda: received)
    assert received == [{"type": "websocket.receive", "text": "ab" + "c" * 10 + "d"}]
    protocol.connection_lost(None)


async def test_compression_is_not_agreed_upon_whatever_the_command_line_says() -> None:
    """What a frame costs would not be bounded by its bytes."""
    protocol = SocketProtocol(Config(accepting, log_config=None, ws_per_message_deflate=True), ServerState(), {})
    transport = Transport()
    protocol.connection_made(transport)
    protocol.data_received(request(HEADERS | {"sec-websocket-extensions": "permessage-deflate"}))
    await eventually(lambda: protocol.handshake_complete)
    assert transport.written.startswith(b"HTTP/1.1 101 ") and b"deflate" not in transport.written
    protocol.connection_lost(None)


async def test_what_is_sent_before_the_handshake_is_answered_waits_for_that() -> None:
    """Else the pong would come before it."""
    protocol = SocketProtocol(Config(accepting, log_config=None), ServerState(), {})
    transport = Transport()
    protocol.connection_made(transport)
    protocol.data_received(handshake())
    protocol.data_received(frame(PING, b"early"))
    assert not transport.written
    await eventually(lambda: b"early" in transport.written)
    assert transport.written.startswith(b"HTTP/1.1 101 ")
    protocol.connection_lost(None)


async def test_a_flood_is_closed_once_and_what_still_comes_is_thrown_away() -> None:
    """The connection stays for the client to read why, but not for ever."""
    protocol, transport = await open_protocol()
    protocol.watch(1000, lambda: None, lambda: None, Allowance(5, 1))
    protocol.data_received(frame(PING) * 10)
    await eventually(lambda: protocol._is_flooding)
    protocol.data_received(frame(PING) * 10)
    assert transport.written.count(CloseCode.POLICY_VIOLATION.to_bytes(2, "big") + b"more than 1 frames") == 1
    assert not transport.is_closing() and protocol.close_timer is not None and not protocol._kept
    protocol.connection_lost(None)


def test_an_allowance_is_earned_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """At its rate, and up to a burst."""
    now = 0.0
    monkeypatch.setattr(allowance, "monotonic", lambda: now)
    mine = Allowance(10, 2)
    mine.left -= 10
    assert mine.left >= 0
    mine.left -= 4
    assert not mine.may_go_on()
    now = 2.0
    assert mine.may_go_on() and mine.left == 0
    now = 1000.0
    assert mine.may_go_on() and mine.left == 10
