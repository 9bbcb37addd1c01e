"""What one step may have of the pool: the others go on while its runs wait for a row that somebody has locked."""

from __future__ import annotations

import asyncio
from collections import deque

from tidelog.errors import StepBusyError
from tidelog.store.lent import Lent
from tidelog.store.pool import Pool

SHARE_MIN = 2  # a run without a transaction may need one for its session and one for a stream


class Share:
    """Lends the pool's connections to the runs of one step, up to `fraction` of them. The runs past that queue here."""

    def __init__(self, pool: Pool, fraction: float) -> None:
        self._pool = pool
        self._fraction = fraction
        self._taken = 0  # connections that are lent, or that the pool is asked for
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def check_out(self) -> Lent:
        """A connection that isn't known to be bad. Raises StepBusyError and NoConnectionError."""
        if self._waiting or self._taken >= self._size:
            await self._wait()
        else:
            self._taken += 1
        try:
            return await self._pool.check_out()
        except BaseException:
            self._free()
            raise

    async def check_in(self, lent: Lent) -> None:
        """Take it back: as it was opened, or not at all."""
        try:
            await self._pool.check_in(lent)
        finally:
            self._free()

    def note_error(self, lent: Lent, error: BaseException) -> bool:
        """Whether it was the connection's fault; see Pool."""
        return self._pool.note_error(lent, error)

    @property
    def _size(self) -> int:
        """Of what there is room for, which changes."""
        return max(SHARE_MIN, int(self._pool.limit * self._fraction))

    async def _wait(self) -> None:
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        try:
            async with asyncio.timeout(self._pool.timeout_seconds):
                await waiting
        except BaseException as error:
            if waiting.done() and not waiting.cancelled():  # in the same moment
                self._free()
            elif waiting in self._waiting:
                self._waiting.remove(waiting)
            if not isinstance(error, TimeoutError):
                raise
            raise StepBusyError(
                f"{self._taken} other runs of this step have its share of the connections (TIDELOG_STEP_POOL_SHARE), "
                f"and gave none back for {self._pool.timeout_seconds} s (TIDELOG_POOL_TIMEOUT_SECONDS)"
            ) from None

    def _free(self) -> None:
        """One is taken no more: whoever waits first may have it, and others that there is room for by now."""
        self._taken -= 1
        while self._waiting and self._taken < self._size:
            waiting = self._waiting.popleft()
            if not waiting.done():
                self._taken += 1
                waiting.set_result(None)
