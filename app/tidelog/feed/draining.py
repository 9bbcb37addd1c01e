"""Waiting for a client to take what it has been sent, as long as it takes anything."""

from __future__ import annotations

import asyncio

from tidelog.feed.subscription import Subscriber

# A client that takes less is not waited for: it would have what waits for it kept for hours.
DRAIN_BYTES_PER_SECOND_MIN = 500  # less than the worst of mobile networks brings


class FellBehindError(Exception):
    """A subscriber did not drain in time and has been given up: whatever served it ends."""


class Draining:
    """What everybody who delivers waits by."""

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds

    async def wait(self, subscriber: Subscriber, cursor: int | None) -> None:
        """Wait until the subscriber, which got all up to `cursor`, can take more.

        Raises FellBehindError if it takes nothing for too long, or next to nothing; it is being closed then.
        """
        if not subscriber.is_full:
            return
        taken = subscriber.taken
        while not await self._is_drained(subscriber):
            before, taken = taken, subscriber.taken
            if taken - before < DRAIN_BYTES_PER_SECOND_MIN * self._timeout_seconds:
                subscriber.give_up(cursor)
                raise FellBehindError

    async def _is_drained(self, subscriber: Subscriber) -> bool:
        """Whether it has drained within a while."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await subscriber.drained()
        except TimeoutError:
            return False
        return True
