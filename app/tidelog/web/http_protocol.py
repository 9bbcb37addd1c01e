"""uvicorn's HTTP protocol, which also bounds a request's head, and the time that requests and answers may take.

A connection that says nothing, a header every other minute, or never reads its answer, costs its client nothing, and
would hold one of the process's file descriptors for ever; a head without end, or requests that are sent without waiting
for answers, would hold memory. Handshakes of WebSockets come this way, too.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sized
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Any, cast

from httptools import HttpParserError, HttpParserUpgrade
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tidelog.errors import ServerFullError, UpgradeWithBodyError
from tidelog.web.handshake import is_whole, upgrade_out_of_turn
from tidelog.web.intake import SlicedIntake
from tidelog.web.overfull import REFUSAL, OverfullApp, overfull
from tidelog.web.refusal import last_words
from tidelog.web.stopping import note_stop

# Of request line and headers, and again of trailers. What is counted begins with a connection's earlier requests: up to
# twice that is let through.
HEAD_SIZE_MAX_BYTES = 64 * 1024  # unless a setting says otherwise
LOOK_SECONDS = 20.0  # a connection's first request begins within one of them, and each head is whole within two
BODY_BYTES_PER_SECOND_MIN = 500  # less than the worst of mobile networks brings
PIPELINE_MAX = 16  # requests that wait for others' answers; past it no further slice is taken
# Most requests come in one. Of the least requests there are some fifty in it, which take a millisecond.
SLICE_BYTES = 1024
INVALID = "Invalid HTTP request received."
_BODY_HEADERS = frozenset({b"content-length", b"transfer-encoding"})


class BoundedFlow(FlowControl):
    """uvicorn reads on at each answer, however many requests wait. `go_on` goes on with what has been read already."""

    def __init__(self, transport: asyncio.Transport, pipeline: Sized, go_on: Callable[[], None]) -> None:
        super().__init__(transport)
        self._pipeline = pipeline
        self._go_on = go_on

    def resume_reading(self) -> None:
        if self.read_paused and len(self._pipeline) < PIPELINE_MAX:
            self.read_paused = False
            self._go_on()


class RequestProtocol(SlicedIntake, HttpToolsProtocol):
    """To be given to uvicorn as `http`: `--http tidelog.web.http_protocol:RequestProtocol`.

    Nearly all of it is done when something is odd, or every LOOK_SECONDS: a timer or a call more for each request would
    cost every one of them. `scope` is made when a request begins, `cycle` with that scope when its head is whole.
    """

    look_seconds = LOOK_SECONDS
    head_size_max_bytes = HEAD_SIZE_MAX_BYTES
    slice_bytes = SLICE_BYTES

    _is_last = False  # what comes behind this connection's last request is not looked at
    _looking: asyncio.TimerHandle | None = None
    _received = 0  # bytes on this connection
    _counted_from = 0  # what came since is head or trailers, if it is all of one request
    _counted: object = None  # the scope of that request, if it is known
    _seen: tuple[object, int] = (None, 0)  # scope and bytes, at the last look; no scope if it was not to be judged
    _stuck_bytes = 0  # that waited to be sent at the last look, if nothing more could be written
    _drained = False  # since then

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = BoundedFlow(transport, self.pipeline, self.go_on)
        self._look_later()
        refusal = overfull.admit(transport)
        if refusal is not None:
            self.app = OverfullApp(self.app, refusal, partial(overfull.drop, self))
            overfull.hold(self, self.loop)

    @property
    def has_enough(self) -> bool:
        return self.flow.read_paused

    def data_received(self, data: bytes) -> None:
        if self._kept or self.flow.read_paused:
            self.keep(data)
        else:
            super().data_received(data)

    def take(self, piece: bytes) -> None:
        """As uvicorn's data_received, which drops what comes behind an upgrade."""
        if self._is_last:
            return
        self._received += len(piece)
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        self._parse(piece)
        if self._received - self._counted_from > self.head_size_max_bytes:
            self._count_again()

    def _parse(self, piece: bytes) -> None:
        try:
            self.parser.feed_data(piece)
        except HttpParserUpgrade as upgrade:
            rest = piece[upgrade.args[0] :]
            if self._should_upgrade():
                self._leave_http(rest + self.drop_kept())
            else:
                self._stay(rest)
        except HttpParserError:
            self._refuse_what_is_invalid()

    def _leave_http(self, rest: bytes) -> None:
        """Hand the connection over to the WebSocket protocol, with what the client has sent it already."""
        self._is_last = True
        self.handle_websocket_upgrade()
        if not self.transport.is_closing():
            self._read_on()
            if rest:
                cast("asyncio.Protocol", self.transport.get_protocol()).data_received(rest)

    def _stay(self, rest: bytes) -> None:
        """Go on with HTTP: a request to upgrade may be answered as a plain one (RFC 9110 7.8). Java sends them."""
        headers = dict(self.headers)
        if b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0":
            # The parser has passed over the body: the handler must not run without it.
            cast("dict[str, Any]", self.scope)[REFUSAL] = UpgradeWithBodyError()
        is_http = headers.get(b"upgrade", b"").lower() == b"h2c" and self.scope["method"] != "CONNECT"
        if is_http and not _BODY_HEADERS.intersection(headers):
            self._parse(rest)
        else:
            # The parser takes its body for what comes next, and what comes next may not be HTTP.
            self._is_last = True
            self.cycle.keep_alive = False

    def _should_upgrade(self) -> bool:
        """Whether a request that has `Upgrade` is a whole handshake; else it goes on as a request.

        Not while earlier requests are being answered: their answers would go into the socket's stream.
        """
        if not super()._should_upgrade() or not is_whole(self.scope["method"], self.headers):
            return False
        # Once a cycle has been made for a request it is answered by that, whatever has been answered meanwhile.
        is_free = self._is_in_head and not self._is_answering_another
        if not is_free:
            cast("dict[str, Any]", self.scope)[REFUSAL] = upgrade_out_of_turn()
        return is_free

    def _refuse_what_is_invalid(self) -> None:
        self._is_last = True
        self.logger.warning(INVALID)
        cycle = self.cycle
        is_answering = cycle is not None and not cycle.response_complete
        if self.pipeline or (is_answering and (cycle.response_started or not cycle.more_body)):
            self.transport.close()  # it would be taken for the answer to an earlier request, or for a part of it
        else:
            self.send_400_response(INVALID)

    def on_body(self, body: bytes) -> None:
        self._counted_from = self._received
        super().on_body(body)

    def handle_websocket_upgrade(self) -> None:
        self._look_no_more()
        overfull.drop(self)
        super().handle_websocket_upgrade()

    def connection_lost(self, exc: Exception | None) -> None:
        self._look_no_more()
        overfull.drop(self)
        overfull.leave(self.transport)
        super().connection_lost(exc)

    def shutdown(self) -> None:
        if self.cycle is not None:
            note_stop(self.cycle.scope)
        super().shutdown()

    def resume_writing(self) -> None:
        self._drained = True
        super().resume_writing()

    def refuse_at_once(self) -> None:
        """There was no room for it, and no request came."""
        if self.transport.is_closing():
            return
        if self.scheme == "http":
            # What came meanwhile: closed with that unread, the connection would be reset, and our words be lost.
            with suppress(OSError):
                os.read(self.transport.get_extra_info("socket").fileno(), HEAD_SIZE_MAX_BYTES)
        self.transport.write(last_words(overfull.refusal_of(self.transport) or ServerFullError()))
        self.transport.close()

    @property
    def _is_in_head(self) -> bool:
        return self.scope is not None and (self.cycle is None or self.cycle.scope is not self.scope)

    @property
    def _is_coming(self) -> bool:
        """Whether the last request that began isn't here whole."""
        return self._is_in_head or (self.cycle is not None and self.cycle.more_body)

    @property
    def _is_answering_another(self) -> bool:
        """Whether an earlier request of this connection is being answered."""
        return bool(self.pipeline) or (self._is_in_head and self.cycle is not None and not self.cycle.response_complete)

    def _count_again(self) -> None:
        """So much came without a body's part in it: of several requests, or of one that is refused."""
        if self._is_coming and self._counted is self.scope:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        self._counted, self._counted_from = self.scope, self._received

    def _look(self) -> None:
        """Also while it is closing: then it waits for what is still to be sent."""
        if self._takes_nothing():
            self.transport.abort()
            return
        if not self.transport.is_closing() and self._is_too_slow():
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        is_exempt = self._is_answering_another or self.flow.read_paused or bool(self._kept)
        self._seen = (None if is_exempt else self.scope, self._received)
        self._look_later()

    def _takes_nothing(self) -> bool:
        """Whether the client has not read any of its answer since the last look, though it could."""
        is_stuck = self.flow.write_paused or self.transport.is_closing()
        waiting = self.transport.get_write_buffer_size() if is_stuck else 0
        takes_nothing = bool(self._stuck_bytes) and waiting >= self._stuck_bytes and not self._drained
        self._stuck_bytes, self._drained = waiting, False
        return takes_nothing

    def _is_too_slow(self) -> bool:
        if self.scope is None:
            return True
        scope, received = self._seen
        if self.scope is not scope or self._is_answering_another or self.flow.read_paused or self._kept:
            return False
        if self._is_in_head:
            return True
        if self.cycle.response_complete:
            # It goes on with what was refused; or sent an empty line, which begins no request but ends uvicorn's timer.
            return self.cycle.more_body or self.timeout_keep_alive_task is None
        return self.cycle.more_body and self._received - received < BODY_BYTES_PER_SECOND_MIN * self.look_seconds

    def _refuse(self, status: HTTPStatus) -> None:
        if self.transport.is_closing():
            return
        if self._is_in_head and not self._is_answering_another:
            head = f"HTTP/1.1 {status.value} {status.phrase}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            self.transport.write(head.encode())
        self.transport.close()

    def _look_later(self) -> None:
        self._looking = self.loop.call_later(self.look_seconds, self._look)

    def _look_no_more(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
