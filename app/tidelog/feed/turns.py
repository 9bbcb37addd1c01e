"""Turns at the event loop for those who catch up, so that live delivery waits for a slice of one's work at most."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from tidelog.fair import Claim, Fair

SLICE_SECONDS = 0.002  # what everybody else may have to wait


async def in_slices(steps: Iterable[None]) -> None:
    """Do the steps, with everybody else's turns in between. For what others wait for: it waits for nobody's slice."""
    end = time.monotonic() + SLICE_SECONDS
    for _ in steps:
        if time.monotonic() > end:
            await asyncio.sleep(0)
            end = time.monotonic() + SLICE_SECONDS


class Turns:
    """One slice of work for each round of the event loop. Clients take turns, however many connections they have."""

    def __init__(self) -> None:
        self._fair = Fair(1)

    @asynccontextmanager
    async def slice(self, claim: Claim) -> AsyncIterator[Callable[[], bool]]:
        """Wait for a slice. Work in it, without waiting, as long as what it answers says that there is time."""
        async with self._fair.place(claim):
            end = time.monotonic() + SLICE_SECONDS
            yield lambda: time.monotonic() < end
            await asyncio.sleep(0)  # everybody else's turn
