"""The outlet of a connection on any ASGI server: messages are queued, and sent one by one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from litestar.types import Send

from tidelog.feed.messages import LongMessage, Messages
from tidelog.web.allowance import Allowance

CLOSE_TIMEOUT_SECONDS = 5.0  # a client that doesn't read can't be told that it is closed


class SendOutlet:
    """Queues messages and sends them one by one."""

    def __init__(
        self,
        send: Send,
        high_water: int,
        allowance: Allowance,
        on_full: Callable[[], None],
        on_failure: Callable[[Exception], None],
        on_stuck: Callable[[], None],
    ) -> None:
        self.is_full = False
        self._send = send
        self._allowance = allowance
        self._high_water = high_water
        self._on_full = on_full
        self._on_failure = on_failure
        self._on_stuck = on_stuck
        self._queue: deque[bytes | LongMessage] = deque()
        self._queue_bytes = 0
        self._sent_bytes = 0
        self._sending: asyncio.Task[None] | None = None  # only while there is something to send
        self._drained = asyncio.Event()
        self._ended = False

    def write(self, messages: Messages) -> None:
        if self._ended:
            return
        if isinstance(messages, LongMessage):
            messages.pages.hold()
            self._queue.append(messages)
        else:
            self._queue.extend(messages.payloads)
        self._queue_bytes += messages.size
        if self._queue_bytes > self._high_water and not self.is_full:
            self.is_full = True
            self._drained.clear()
            self._on_full()
        if self._sending is None:
            self._sending = asyncio.create_task(self._empty())

    @staticmethod
    def write_all(outlets: Iterable[SendOutlet], messages: Messages) -> None:
        for outlet in outlets:
            outlet.write(messages)

    @property
    def taken(self) -> int:
        return self._sent_bytes

    @property
    def waiting_bytes(self) -> int:
        return self._queue_bytes

    async def drained(self) -> None:
        if self.is_full:
            await self._drained.wait()

    async def may_go_on(self) -> bool:
        # Servers hand on what they have read without waiting: that may be thousands of messages.
        await asyncio.sleep(0)
        self._allowance.left -= 1
        return self._allowance.left >= 0 or self._allowance.may_go_on()

    def close(self, code: int, reason: str) -> None:
        if self._ended:
            return
        on_stuck = self._on_stuck
        self.end()
        self._sending = asyncio.create_task(self._close(code, reason, on_stuck))

    def end(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None
        self._ended = True
        self.is_full = False
        for message in self._queue:
            if isinstance(message, LongMessage):
                message.pages.close()
        self._queue.clear()
        self._queue_bytes = 0
        self._drained.set()
        self._on_full = self._on_failure = self._on_stuck = _do_nothing

    async def _empty(self) -> None:
        """Send what waits. However that fails, the connection ends: receive() may never be told of it."""
        try:
            while self._queue:
                message = self._queue.popleft()
                if isinstance(message, LongMessage):
                    size, text = message.size, _read(message)
                else:
                    size, text = len(message), message.decode()
                await self._send({"type": "websocket.send", "text": text, "bytes": None})
                self._queue_bytes -= size
                self._sent_bytes += size
                if self.is_full and self._queue_bytes <= self._high_water // 4:
                    self.is_full = False
                    self._drained.set()
            self._sending = None
        except (OSError, RuntimeError):  # the client went away
            self._sending, on_stuck = None, self._on_stuck
            self.end()
            on_stuck()
        except Exception as error:
            self._sending = None
            self._on_failure(error)

    async def _close(self, code: int, reason: str, on_stuck: Callable[[], None]) -> None:
        """Close the connection, or let go of it if the client takes nothing any more."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                await self._send({"type": "websocket.close", "code": code, "reason": reason})
        except Exception:  # it is over, in whatever way
            on_stuck()


def _read(message: LongMessage) -> str:
    """All of it: an ASGI server takes a message as a whole."""
    try:
        return message.payloads[0].decode()
    finally:
        message.pages.close()


def _do_nothing(*_: object) -> None:
    """What ended calls back no more."""
