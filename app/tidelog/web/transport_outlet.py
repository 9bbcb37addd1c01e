"""The outlet of a connection whose server is uvicorn with our protocol: encoded frames, written to its transport."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from tidelog.feed.cork import Cork
from tidelog.feed.messages import LongMessage, Messages, SharedMessages
from tidelog.web.allowance import Allowance
from tidelog.web.progress import taken
from tidelog.web.protocol import SocketProtocol, encode_frame, fragment_head, frame_head

# Messages that are larger, on an average, go behind the heads of their frames as they are.
FRAME_COPIED_BYTES_MAX = 32 * 1024
LONG_SLICE_BYTES = 256 * 1024  # of a long message in a turn of the event loop: some 100 microseconds

logger = logging.getLogger(__name__)


class TransportOutlet:
    """Writes frames, encoded once for all connections, to the connection's transport."""

    # For a thousand sockets, what an update touches of each is what it costs, beside the write itself.
    __slots__ = (
        "_cork", "_drained", "_gathered", "_is_direct", "_is_paused", "_long", "_on_full", "_protocol", "_transport",
        "is_full",
    )  # fmt: skip

    def __init__(
        self,
        protocol: SocketProtocol,
        cork: Cork,
        high_water: int,
        allowance: Allowance,
        on_full: Callable[[], None],
    ) -> None:
        self.is_full = False
        self._protocol = protocol
        self._cork = cork
        self._transport = protocol.transport
        self._is_direct = True  # not ended, and nothing but the transport is to be waited for
        self._is_paused = False  # the transport has more than it should
        self._long: LongWriting | None = None  # which is being sent; the outlet is full meanwhile
        self._gathered: list[bytes] | None = None
        self._on_full = on_full
        self._drained: asyncio.Event | None = None  # only while somebody may wait
        protocol.watch(high_water, self._note_paused, self._note_resumed, allowance)

    @property
    def taken(self) -> int:
        return taken(self._transport)

    @property
    def waiting_bytes(self) -> int:
        # Of a long message what isn't in the transport yet is in a file, or in memory that others share.
        behind = 0 if self._long is None else sum(map(len, self._long.behind))
        return self._transport.get_write_buffer_size() + behind

    def write(self, messages: Messages) -> None:
        if isinstance(messages, LongMessage):
            self._write_long(messages)
        else:
            self.write_all((self,), messages)

    @staticmethod
    def write_all(outlets: Iterable[TransportOutlet], messages: Messages) -> None:
        wire = messages.wire
        if wire is None:
            if isinstance(messages, SharedMessages) or messages.size > len(messages.payloads) * FRAME_COPIED_BYTES_MAX:
                parts = [part for one in messages.in_parts for part in (frame_head(sum(map(len, one))), *one)]
                for outlet in outlets:
                    outlet._write_parts(parts)
                return
            wire = messages.wire = b"".join(map(encode_frame, messages.payloads))
        for outlet in outlets:
            if outlet._cork.is_held:
                if outlet._gathered is None:
                    outlet._gathered = []
                    outlet._cork.gather(outlet)
                outlet._gathered.append(wire)
            elif outlet._is_direct:
                transport = outlet._transport
                if not transport.is_closing():
                    transport.write(wire)
            elif outlet._long is not None:
                outlet._long.behind.append(wire)

    def _write_parts(self, parts: Sequence[bytes]) -> None:
        """Write frames in pieces."""
        if self._cork.is_held:
            if self._gathered is None:
                self._gathered = []
                self._cork.gather(self)
            self._gathered += parts
        elif self._long is not None:
            self._long.behind += parts
        elif self._is_direct and not self._transport.is_closing():
            self._transport.writelines(parts)

    def _write_long(self, message: LongMessage) -> None:
        """Write a message by and by, as the transport takes it. All that comes meanwhile comes behind it."""
        if self._long is not None or self._cork.is_held or not self._is_direct:
            self._write_parts([encode_frame(payload) for payload in message.payloads])
            return
        self._is_direct = False
        self._long = LongWriting(message)
        self._note_full()
        self._go_on()

    def _go_on(self) -> None:
        """Write more of the long message, and what came behind it when that is done."""
        long, transport = self._long, self._transport
        if long is None or self._is_paused:
            return
        if transport.is_closing() or self._protocol.close_sent:
            # Nothing may come behind a close frame, nor get anywhere. The application is told in its turn, unless it
            # waits for this to be sent.
            self._drop_long()
            self._note_drained()
            return
        try:
            size = 0
            while (fragment := long.next()) is not None:
                transport.writelines(fragment)
                size += len(fragment[1])
                if self._is_paused:
                    return
                if size >= LONG_SLICE_BYTES:
                    asyncio.get_running_loop().call_soon(self._go_on)
                    return
        except Exception:  # the message can't be ended as a message
            logger.exception("a message could not be read while it was sent: its connection is broken off")
            self.end()
            transport.abort()
            return
        self._long, self._is_direct = None, True
        long.close()
        if long.behind and not transport.is_closing():
            transport.writelines(long.behind)
        if not self._is_paused:
            self._note_drained()

    def flush(self) -> None:
        """Part of the feed's Corked."""
        gathered, self._gathered = self._gathered, None
        if gathered is not None:
            # Not joined: what a slow socket leaves waiting is shared with all the others.
            self._write_parts(gathered)

    async def drained(self) -> None:
        if self._drained is not None:
            await self._drained.wait()

    async def may_go_on(self) -> bool:
        return True  # the protocol counts frames, and bounds how many it hands on in a turn of the loop

    def close(self, code: int, reason: str) -> None:
        self._drop_long()
        self._protocol.end(code, reason)

    def end(self) -> None:
        self._drop_long()
        self._note_drained()
        # What the transport and the event loop still have of it must not keep the rest.
        self._protocol.unwatch()
        self._on_full = _do_nothing

    def _drop_long(self) -> None:
        self._is_direct = False
        long, self._long = self._long, None
        if long is not None:
            long.close()

    def _note_paused(self) -> None:
        self._is_paused = True
        self._note_full()

    def _note_resumed(self) -> None:
        self._is_paused = False
        if self._long is None:
            self._note_drained()
        else:
            self._go_on()

    def _note_full(self) -> None:
        if not self.is_full:
            self.is_full = True
            self._drained = asyncio.Event()
            self._on_full()

    def _note_drained(self) -> None:
        self.is_full = False
        if self._drained is not None:
            self._drained.set()
            self._drained = None


class LongWriting:
    """A long message on its way to a transport, in fragments: pings, pongs and a close need not wait for its end."""

    __slots__ = ("_is_first", "_next", "_parts", "behind", "pages")

    def __init__(self, message: LongMessage) -> None:
        self.pages = message.pages
        self.pages.hold()
        self.behind: list[bytes] = []  # encoded frames that come after it
        self._parts = message.parts()
        self._next: bytes | None = next(self._parts)
        self._is_first = True

    def next(self) -> tuple[bytes, bytes] | None:
        """The next fragment, as its head and its content."""
        part = self._next
        if part is None:
            return None
        self._next = next(self._parts, None)
        head = fragment_head(len(part), is_first=self._is_first, is_last=self._next is None)
        self._is_first = False
        return head, part

    def close(self) -> None:
        self.pages.close()


def _do_nothing(*_: object) -> None:
    """What ended calls back no more."""
