"""When a connection's authentication ends: its client is told some time before, and then it is closed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

NOTICE_SECONDS = 30.0  # for getting another token, and sending it; of a shorter life, half of what is left
# A timer doesn't count the time for which a machine sleeps, and clocks are set: it is looked at that often.
LOOK_SECONDS = 60.0


class Expiry:
    """Of one connection."""

    def __init__(self, on_notice: Callable[[float], None], on_end: Callable[[], None]) -> None:
        """`on_notice` is called with the moment of the end, in seconds since 1970."""
        self._on_notice = on_notice
        self._on_end = on_end
        self._notice_at: float | None = None
        self._ends_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def set(self, ends_at: float | None) -> None:
        """It ends then, instead of what was said before."""
        self.stop()
        if ends_at is not None:
            now = time.time()
            self._ends_at, self._notice_at = ends_at, max(ends_at - NOTICE_SECONDS, (now + ends_at) / 2)
            self._wait(now)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self, now: float) -> None:
        due = self._ends_at if self._notice_at is None else self._notice_at
        delay = min(max(due - now, 0.0), LOOK_SECONDS)
        self._timer = asyncio.get_running_loop().call_later(delay, self._look)

    def _look(self) -> None:
        now = time.time()
        if now >= self._ends_at:
            self._timer = None
            self._on_end()
            return
        if self._notice_at is not None and now >= self._notice_at:
            self._notice_at = None
            self._on_notice(self._ends_at)
        self._wait(now)
