"""Looks after a handler while it runs: whether its client is still there, and whether its time is over.

Knows nothing of what a handler does, nor of how it is answered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol

from tidelog.errors import ClientGoneError, StepTimedOutError, TidelogError

WATCH_AFTER_SECONDS = 0.25  # before a running handler's client is listened to
CANCELLED_SECONDS = 5.0  # that a handler whose time is over has for cleaning up, before it is given up

logger = logging.getLogger(__name__)


class Caller(Protocol):
    """Who waits for what a handler makes."""

    async def until_gone(self) -> None:
        """Return when nobody waits any more; perhaps never."""

    def has_gone(self) -> bool:
        """Whether nobody waits any more, as far as is known now. Not to be asked beside `until_gone`."""


class HandlerWatch:
    """Cancels the task that made it when the client goes away or the time is over, until it is stopped.

    Listening takes a task, whose cancellation leaves cyclic garbage, too. So it begins when the handler has run for
    WATCH_AFTER_SECONDS; most have returned by then, and their clients are looked for once. The same timer goes on to
    count the handler's time. `give_up` is called if a handler, though it was cancelled, goes on. At the end of the
    process such a one is broken off, as the event loop would wait for it for ever.
    """

    __slots__ = (
        "_caller",
        "_cancels",
        "_ends_at",
        "_give_up",
        "_giving_up",
        "_is_stopped",
        "_limit",
        "_loop",
        "_task",
        "_timer",
        "_watcher",
        "handler",
        "is_given_up",
        "is_gone",
    )

    def __init__(self, caller: Caller, limit_seconds: float, give_up: Callable[[], Awaitable[None]]) -> None:
        """`limit_seconds` is 0 if there is none."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - requests are served by tasks
        self._task = task
        self._loop = task.get_loop()
        self._caller = caller
        self._limit = limit_seconds
        self._give_up = give_up
        self._watcher: asyncio.Task[None] | None = None
        self._giving_up: asyncio.Task[None] | None = None
        self._cancels = 0
        self._is_stopped = False
        self.handler: Coroutine[Any, Any, Any] | None = None  # while it runs in the task
        self.is_gone = False
        self.is_given_up = False
        self._ends_at = self._loop.time() + limit_seconds if limit_seconds else float("inf")
        first = WATCH_AFTER_SECONDS
        self._timer = self._loop.call_later(first if not 0 < limit_seconds < first else limit_seconds, self._start)

    def stop(self) -> None:
        self._is_stopped = True
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()

    @property
    def is_over(self) -> bool:
        """Whether the time is over; also if the handler kept the event loop busy, so that no timer could run."""
        return self._loop.time() >= self._ends_at

    def check(self) -> None:
        """Raise what keeps a handler that has returned from being committed. To be asked once, when it is stopped."""
        if self._watcher is None:
            self.is_gone = self._caller.has_gone()
        error = self.error()
        if error is not None:  # the handler swallowed its cancellation, or it was not seen before
            raise error

    def error(self) -> TidelogError | None:
        """Why the handler was cancelled from here, if it was; that is over with the question."""
        for _ in range(self._cancels):
            self._task.uncancel()
        self._cancels = 0
        if self.is_gone:
            return ClientGoneError("the client closed its connection while the step ran; it is rolled back")
        if self.is_over:
            return StepTimedOutError(self._limit)
        return None

    async def until_given_up(self) -> None:
        """Wait for what `give_up` does: a server takes an application that returns without an answer for broken."""
        if self._giving_up is not None:
            await asyncio.wait([self._giving_up])

    def _start(self) -> None:
        self._watcher = self._loop.create_task(self._watch())
        if self._limit:
            self._timer = self._loop.call_at(self._ends_at, self._end)

    async def _watch(self) -> None:
        try:
            await self._caller.until_gone()
            if not self.is_given_up:
                self.is_gone = True
                self._timer.cancel()
                self._end()
            await self._loop.create_future()  # until the handler has ended
        except asyncio.CancelledError:
            if not self._is_stopped:
                self._timer.cancel()
                self._timer = self._loop.call_later(CANCELLED_SECONDS, self._break_off)
            raise

    def _end(self) -> None:
        self._cancels += 1
        self._task.cancel()
        self._timer = self._loop.call_later(CANCELLED_SECONDS, self._start_giving_up)

    def _break_off(self) -> None:
        """The event loop is ending, and the handler has been cancelled by it as well, and goes on."""
        self.is_given_up = True
        if self.handler is not None:
            with suppress(RuntimeError):  # it ignores this, too
                self.handler.close()
        self._task.cancel()

    def _start_giving_up(self) -> None:
        self.is_given_up = True
        self._giving_up = self._loop.create_task(self._give_up_handler())

    async def _give_up_handler(self) -> None:
        try:
            await self._give_up()
        except Exception:
            logger.exception("a handler that goes on could not be given up")
