"""Taking turns on a connection."""

from __future__ import annotations

import asyncio
from typing import Any

from tidelog.errors import StepEndedError

# After the first failure the other connections are looked at before they are lent: the next one is good, or none is.
TRIES_MAX = 3


class AskAgainError(Exception):
    """The connection was no good, and nothing has been done: whoever gets this asks the same again, at once.

    It is its turn still.
    """


class Turns:
    """One operation at a time, first come, first served; and none after the end."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._user: asyncio.Task[Any] | None = None
        self._ended = False

    def check(self) -> None:
        if self._ended:
            raise StepEndedError

    async def take(self) -> None:
        self.check()
        await self._lock.acquire()
        if self._ended:
            self._lock.release()
            self.check()
        self._user = asyncio.current_task()

    def leave(self) -> None:
        self._user = None
        self._lock.release()

    async def end(self) -> None:
        """Wait for the operations that have begun or wait for their turn; there are no others."""
        async with self._lock:
            self._ended = True

    async def break_off(self) -> None:
        """Cancel the running operation; those that wait for their turn are refused."""
        self._ended = True
        if self._user is not None:
            self._user.cancel()
        async with self._lock:
            pass
