"""uvicorn's WebSocket protocol, which also lets the application write encoded frames straight to the transport.

A broadcast is the same bytes for every socket, so what remains to be done for each is one write. By ASGI's
`send` it is a task, a dict, an encoder and a lock. The extension `tidelog.frames` in the connection's scope
is this protocol itself; an application that doesn't find it (on another server) uses `send`.

It also lets go of clients that don't read: uvicorn closes a connection when what was written has been sent,
and one that takes nothing would keep it, and its buffers, for ever. And of those that send too much: a frame costs its
client two bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame
from websockets.http11 import Request
from websockets.protocol import State

from tidelog.feed.draining import DRAIN_BYTES_PER_SECOND_MIN
from tidelog.web.allowance import POLICY_VIOLATION, Allowance, floods
from tidelog.web.intake import SlicedIntake
from tidelog.web.overfull import OverfullApp, overfull
from tidelog.web.progress import taken

EXTENSION = "tidelog.frames"
ABORT_AFTER_SECONDS = 10.0  # for the close frame and what is before it to be sent
ABORT_AFTER_SECONDS_AT_STOP = 3.0  # less than the server waits before it cancels the application's tasks
ABORT_AFTER_SECONDS_OF_FLOOD = 3.0  # meanwhile what still comes is thrown away: a reset would overtake the close frame

SLICE_BYTES = 256  # of the least frames there are some forty in it, which take half a millisecond
# What a message costs later, in the connection's task: that much less is taken in this turn of the loop.
MESSAGE_SECONDS = 30e-6
FRAMES_BURST_MAX, FRAMES_PER_SECOND_MAX = 1000, 100  # until the application says what it allows

BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


def frame_head(size: int) -> bytes:
    """What is before the payload in a server's frame with one whole text message (RFC 6455 5.2).

    Final, not masked, not compressed. That is allowed beside compressed ones, too: the extension marks each message
    by itself (RFC 7692 6).
    """
    if size < 126:
        return b"\x81%c" % size
    if size < 65_536:
        return b"\x81\x7e" + size.to_bytes(2, "big")
    return b"\x81\x7f" + size.to_bytes(8, "big")


def encode_frame(payload: bytes) -> bytes:
    return frame_head(len(payload)) + payload


def fragment_head(size: int, *, is_first: bool, is_last: bool) -> bytes:
    """The same for a part of a message (RFC 6455 5.4). Pings, pongs and a close may come between two parts."""
    opcode = (0x80 if is_last else 0) | (0x01 if is_first else 0)
    return bytes((opcode,)) + frame_head(size)[1:]


class SocketProtocol(SlicedIntake, WebSocketsSansIOProtocol):
    """To be given to uvicorn as `ws`: `--ws tidelog.web.protocol:SocketProtocol`."""

    slice_bytes = SLICE_BYTES

    _allowance: Allowance
    _is_flooding = False
    _on_full: Callable[[], None] | None = None
    _on_drained: Callable[[], None] | None = None
    _taken_at_ping = 0
    _pong_due = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._allowance = Allowance(FRAMES_BURST_MAX, FRAMES_PER_SECOND_MAX)
        # Also if uvicorn was told otherwise: what a frame costs is bounded by its bytes only if they are what was sent.
        self.conn.available_extensions = None
        refusal = overfull.refusal_of(transport)
        if refusal is not None:
            self.app = OverfullApp(self.app, refusal, lambda: None)

    def watch(
        self, high_water: int, on_full: Callable[[], None], on_drained: Callable[[], None], allowance: Allowance
    ) -> None:
        """Call back when more than `high_water` bytes wait to be sent, and when a quarter of it are left.

        `allowance` is for the frames that the client sends, of any kind.
        """
        self._on_full, self._on_drained = on_full, on_drained
        self._allowance = allowance
        self.transport.set_write_buffer_limits(high=high_water, low=high_water // 4)

    def unwatch(self) -> None:
        """Call back no more."""
        self._on_full = self._on_drained = None

    def end(self, code: int, reason: str) -> None:
        """Send a close frame behind what waits to be sent, and don't wait long for it."""
        if self.close_sent or self.transport.is_closing():
            return
        self.stop_keepalive()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self._abort_later()

    def shutdown(self) -> None:
        """Tell the client to come back, as the server stops; and don't wait long for it."""
        try:
            self._shut_down()
        except Exception:  # it would end the whole server's shutdown at this connection
            self.logger.exception("a client could not be told that the server stops")
        self._abort_later(ABORT_AFTER_SECONDS_AT_STOP)

    def _shut_down(self) -> None:
        if self.handshake_complete and not self.close_sent and self.conn.state is not State.OPEN:
            # The client's closing handshake is under way. uvicorn would send a second close frame, which is an error.
            self.stop_keepalive()
            self.transport.close()
        else:
            super().shutdown()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._tell(self._on_full)

    def resume_writing(self) -> None:
        super().resume_writing()
        pong, self._pong_due = self._pong_due, b""
        if pong and not self.close_sent:
            self.transport.write(pong)
        self._tell(self._on_drained)

    async def send(self, message: Any) -> None:
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            self.handshake_complete = True  # it is over, as the application wants it: uvicorn would log an error

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if not self.close_sent:
            cast("dict[str, object]", self.scope["extensions"])[EXTENSION] = self

    def data_received(self, data: bytes) -> None:
        if self.handshake_complete and not (self._kept or self.read_paused or self._is_flooding):
            SlicedIntake.data_received(self, data)
        elif not self.handshake_initiated:
            self.take(data)  # the head of the request, which is all there
        elif not self._is_flooding:
            self.keep(data)

    @property
    def has_enough(self) -> bool:
        # Before the handshake is answered, too: an answer to a ping would come before the handshake's.
        return self.read_paused or not self.handshake_complete

    def start_keepalive(self) -> None:
        """The handshake has been answered."""
        super().start_keepalive()
        self.go_on()

    async def receive(self) -> Any:
        """As uvicorn's, but reads on only when what has been read is done with."""
        message = await self.queue.get()
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            self.go_on()
        return message

    def take(self, piece: bytes) -> None:
        """As uvicorn's data_received, which knows no bound."""
        conn, allowance = self.conn, self._allowance
        conn.receive_data(piece)
        if conn.parser_exc is not None:
            self.handle_parser_exception()
            return
        allowance.left -= len(conn.events)
        if allowance.left < 0 and not allowance.may_go_on():
            self._end_flood()
            return
        self.handle_events()
        if conn.handshake_exc is not None and not self.handshake_complete and not self.transport.is_closing():
            # uvicorn would leave a request that can't be read (with too many headers, say) without an answer for ever.
            answer = b"".join(conn.data_to_send())
            self.transport.write(answer or BAD_REQUEST)
            self.transport.close()

    def _end_flood(self) -> None:
        """Close the connection in a way that its client learns why."""
        floods.note(self.client)
        self._is_flooding = True
        self.conn.events.clear()
        self.drop_kept()
        # While it has this timer, uvicorn doesn't close the transport as soon as the application returns.
        self.close_timer = self.loop.call_later(ABORT_AFTER_SECONDS_OF_FLOOD, self.transport.abort)
        self.end(POLICY_VIOLATION, self._allowance.reason)
        self.transport.resume_reading()

    # The parts of a message are gathered in one piece of memory. Alone, even an empty one would take fifty bytes.

    def handle_text(self, event: Frame) -> None:
        super().handle_text(event)
        if not event.fin:
            self.frames = [bytearray(event.data)]  # type: ignore[list-item]

    def handle_bytes(self, event: Frame) -> None:
        super().handle_bytes(event)
        if not event.fin:
            self.frames = [bytearray(event.data)]  # type: ignore[list-item]

    def handle_cont(self, event: Frame) -> None:
        self.frames[0] += event.data
        if event.fin:
            self.send_receive_event_to_app()

    def send_receive_event_to_app(self) -> None:
        self._turn.left -= MESSAGE_SECONDS
        if self.curr_msg_data_type == "text" and not self.close_sent and not _is_utf8(b"".join(self.frames)):
            # uvicorn logs a traceback for it, and fails if a close frame came right behind.
            self.frames = []
            self.conn.fail(CloseCode.INVALID_DATA, "invalid UTF-8")
            self.handle_parser_exception()
        else:
            super().send_receive_event_to_app()

    def handle_ping(self) -> None:
        if self.writable.is_set():
            super().handle_ping()
        else:
            # One who doesn't take what waits already is sent one pong when it does, for its last ping (RFC 6455 5.5.3).
            self._pong_due = b"".join(self.conn.data_to_send()[-1:]) or self._pong_due

    def connection_lost(self, exc: Exception | None) -> None:
        overfull.leave(self.transport)
        try:
            super().connection_lost(exc)
        finally:  # or whoever waits for it would do so for ever
            self._tell(self._on_drained)

    async def run_asgi(self) -> None:
        await super().run_asgi()
        if self._is_flooding and self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()  # clients wait for it behind a close frame
        self._abort_later()

    def send_keepalive_ping(self) -> None:
        self._taken_at_ping = taken(self.transport)
        super().send_keepalive_ping()

    def keepalive_timeout(self) -> None:
        """No pong has come. It may be in what isn't read yet; whoever takes nothing is closed for that, by the feed.

        And the ping waits behind what was written before it: who takes that, is alive.
        """
        seconds = self.ping_timeout or 0.0
        before, self._taken_at_ping = self._taken_at_ping, taken(self.transport)
        takes = self._taken_at_ping - before >= DRAIN_BYTES_PER_SECOND_MIN * seconds and not self.close_sent
        if takes or self._kept or self.read_paused:
            self.pong_timer = self.loop.call_later(seconds, self.keepalive_timeout)
            return
        super().keepalive_timeout()
        self._abort_later()

    def _tell(self, callback: Callable[[], None] | None) -> None:
        """Call back from the transport, which would only log what is raised: such a connection can't go on."""
        try:
            if callback is not None:
                callback()
        except Exception:
            self.logger.exception("a connection's state could not be noted: it is closed")
            self.end(CloseCode.INTERNAL_ERROR, "the server failed: come back")

    def _abort_later(self, seconds: float = ABORT_AFTER_SECONDS) -> None:
        if not self.disconnected:  # else the timer would only keep what is left of the connection
            self.loop.call_later(seconds, self.transport.abort)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
