"""How long what serves subscriptions is tried again, and when it is given up: for what passes by itself, never.

While the whole database is away the feed is interrupted, which everybody has been told: then it waits, so that
nobody needs to come back after a restart of Postgres. What fails though the feed goes on is a trouble of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tidelog.backoff import Backoff
from tidelog.errors import StreamUnreadableError, SubscriptionUnavailableError
from tidelog.feed.progress import Progress
from tidelog.feed.trouble import Troubles
from tidelog.store.failure import CONNECTION_ERRORS
from tidelog.store.snapshot import ItemsUnreadableError

# For what lasts until somebody acts. A table that is dropped and made anew, by statements of their own, is not there
# for a moment.
UNREADABLE_SECONDS = 1.0


class Patience:
    """Tries again for `seconds`, counted from the first failure since there was any progress."""

    def __init__(
        self, seconds: float, progress: Progress, is_interrupted: Callable[[], bool], troubles: Troubles
    ) -> None:
        """`is_interrupted` tells whether the feed stands still for want of a database."""
        self._seconds = seconds
        self._progress = progress
        self._is_interrupted = is_interrupted
        self._troubles = troubles

    async def retrying(
        self,
        work: Callable[[], Awaitable[None]],
        stream: str | None = None,
        mark: Callable[[], object] = lambda: None,
    ) -> None:
        """Do `work`, which may be of one stream, again and again while the database is away.

        Raises SubscriptionUnavailableError and StreamUnreadableError if it can't be done though the database is there,
        for too long without a change of `mark`; and the other errors of `work`.
        """

        def progress() -> object:
            return self._progress.generation, mark()

        tries = _Tries(self._seconds, self._is_interrupted, self._troubles, stream, progress)
        try:
            while True:
                try:
                    await work()
                except ItemsUnreadableError as error:
                    pause = tries.note(error)
                except CONNECTION_ERRORS as error:
                    pause = tries.note(error)
                else:
                    self._troubles.succeed(tries, stream)
                    return
                if pause is not None:
                    await pause.wait()
        finally:
            self._troubles.leave(tries)


class _Tries:
    """The failures of one thing that is tried, since it made progress."""

    def __init__(
        self,
        seconds: float,
        is_interrupted: Callable[[], bool],
        troubles: Troubles,
        stream: str | None,
        progress: Callable[[], object],
    ) -> None:
        self._seconds = seconds
        self._is_interrupted = is_interrupted
        self._troubles = troubles
        self._stream = stream
        self._progress = progress
        self._backoff = Backoff()
        self._failures = 0
        self._first_failed_at = 0.0
        self._mark: object = None

    def note(self, error: Exception) -> Backoff | None:
        """It failed: returns the pause before the next try, if it needs one. Raises what ends it."""
        now = asyncio.get_running_loop().time()
        mark = self._progress()
        if mark != self._mark:
            self._backoff.reset()
        is_interrupted = self._is_interrupted()
        if mark != self._mark or is_interrupted:
            self._mark, self._failures = mark, 0
        if is_interrupted:
            self._troubles.leave(self)  # the reader tells of it
            return self._backoff
        if not self._failures:
            self._first_failed_at = now
        self._failures += 1
        if isinstance(error, ItemsUnreadableError):
            if self._failures == 1 and error.is_outdated:
                return None
            self._note_trouble_of_stream(error, now - self._first_failed_at)
        elif self._failures > 1:  # a statement may learn that the database is lost before the reader does
            self._troubles.note(self, None, error)
            if now - self._first_failed_at >= self._seconds:
                raise SubscriptionUnavailableError("the server is in trouble: subscribe again later")
        return self._backoff

    def _note_trouble_of_stream(self, error: ItemsUnreadableError, seconds: float) -> None:
        self._troubles.note(self, self._stream, error.cause)
        if error.may_pass and seconds >= self._seconds:
            raise SubscriptionUnavailableError(f"{self._stream!r} can't be read at present: subscribe again later")
        if not error.may_pass and seconds >= UNREADABLE_SECONDS:
            raise StreamUnreadableError(f"{self._stream!r} can't be read; the server's log says why")
