"""Bounds what clients' bytes may cost in one turn of the event loop, however small the pieces that they make.

One read brings up to 256 KiB: that is 40,000 empty frames, 14,000 requests or 40,000 chunks of a body. Each costs some
ten microseconds, and nobody else is served meanwhile. So bytes are handed on in slices, and what is left when a turn's
time is spent waits for the next turn. The time is one for all connections of the process: a thousand that flood take
no more of a turn than one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from time import monotonic
from weakref import WeakKeyDictionary

# What everybody else may have to wait in each turn. A request takes some ten turns, a read through the loop one.
TURN_SECONDS = 0.001

logger = logging.getLogger(__name__)


class Turn:
    """What may be spent on bytes in this turn of the loop, and who has bytes left for the next ones.

    `left` goes on being spent over turns in which nobody had to wait, and is full again after one in which somebody had
    to: so in the usual case it costs no callback.
    """

    __slots__ = ("__weakref__", "_behind", "_is_scheduled", "_loop", "_new", "_new_are_next", "left")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.left = TURN_SECONDS
        self._loop = loop
        # Those whose first slice waits take turns with those that have had one: who floods delays the others less.
        self._new: deque[SlicedIntake] = deque()
        self._behind: deque[SlicedIntake] = deque()
        self._new_are_next = True
        self._is_scheduled = False

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Turn:
        """The one of this loop."""
        turn = _turns.get(loop)
        if turn is None:
            turn = _turns[loop] = cls(loop)
        return turn

    def queue(self, intake: SlicedIntake, *, is_new: bool) -> None:
        """Let this one hand on a slice in one of the next turns."""
        (self._new if is_new else self._behind).append(intake)
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._take)

    def _take(self) -> None:
        self.left = TURN_SECONDS
        while self.left > 0 and (self._new or self._behind):
            queue = (self._new or self._behind) if self._new_are_next else (self._behind or self._new)
            self._new_are_next = not self._new_are_next
            intake = queue.popleft()
            try:
                has_more = intake.hand_on_slice()
            except Exception:
                logger.exception("what a client sent could not be taken: its connection is closed")
                intake.transport.abort()
            else:
                if has_more:
                    self._behind.append(intake)
        self._is_scheduled = bool(self._new or self._behind)
        if self._is_scheduled:
            self._loop.call_soon(self._take)


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, Turn] = WeakKeyDictionary()


class SlicedIntake(asyncio.Protocol):
    """The receiving side of a protocol, which gets bytes by `take`, in their order, a slice at a time.

    To be inherited from before the protocol itself. What an idle connection has of it is one reference.
    """

    slice_bytes: int  # what is in one may be taken beyond the turn's time

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport

    _turn: Turn
    _kept = b""  # what is still to be taken begins at _kept_at
    _kept_at = 0
    _is_queued = False
    _is_held = False  # nothing more is read while so much is kept

    def take(self, piece: bytes) -> None:
        """Work on the next bytes."""
        raise NotImplementedError

    @property
    def has_enough(self) -> bool:
        """Whether the protocol wants no more for now; it calls `go_on` when it does again."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._turn = Turn.of(self.loop)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """To be called if nothing is kept, and the protocol has not enough."""
        turn = self._turn
        if turn.left <= 0:
            self.keep(data)
        elif len(data) <= self.slice_bytes:
            began = monotonic()
            self.take(data)
            turn.left -= monotonic() - began
        else:
            self._kept = data
            while turn.left > 0:
                if not self._hand_on():
                    return
            self._wait(is_new=True)

    def keep(self, data: bytes) -> None:
        """Have these bytes be taken behind what is kept already."""
        self._kept = self._kept[self._kept_at :] + data
        self._kept_at = 0
        self._wait(is_new=True)

    def eof_received(self) -> None:
        """The client sends no more, and the connection is about to end: nothing that it said is left out."""
        if self._kept and not self._is_held:  # less than a slice
            self._hand_on()
        super().eof_received()

    def go_on(self) -> None:
        """The protocol wants more, after it had enough."""
        if self._kept:
            self._wait(is_new=False)
        if not self._is_held:
            self.transport.resume_reading()

    def drop_kept(self) -> bytes:
        """Have what is kept not be taken, and answer it."""
        kept = self._kept[self._kept_at :]
        self._kept, self._kept_at = b"", 0
        return kept

    def hand_on_slice(self) -> bool:
        """Hand on a slice; returns whether another one may be."""
        self._is_queued = self._hand_on()
        return self._is_queued

    def _hand_on(self) -> bool:
        if self.transport.is_closing():
            self.drop_kept()
        if self._kept and not self.has_enough:
            began = monotonic()
            end = self._kept_at + self.slice_bytes
            piece = self._kept[self._kept_at : end]
            if end < len(self._kept):
                self._kept_at = end
            else:
                self._kept, self._kept_at = b"", 0
            self.take(piece)
            self._turn.left -= monotonic() - began
        if not self._kept:
            self._read_on()
            return False
        return not self.has_enough

    def _wait(self, *, is_new: bool) -> None:
        if not self._is_held and len(self._kept) - self._kept_at > self.slice_bytes:
            self._is_held = True
            self.transport.pause_reading()
        if not self._is_queued and not self.has_enough:
            self._is_queued = True
            self._turn.queue(self, is_new=is_new)

    def _read_on(self) -> None:
        if self._is_held:
            self._is_held = False
            if not self.has_enough and not self.transport.is_closing():
                self.transport.resume_reading()
