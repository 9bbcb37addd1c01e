"""Waits until the feed has passed a transaction: what came of it is in every read from then on."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Hashable

from tidelog.errors import PositionForeignError, ReadsBusyError, TransactionAbortedError, WaitTimedOutError
from tidelog.store.reads import Reads
from tidelog.web.reads.parameters import Awaited

WAIT_SECONDS = 10.0  # shorter than proxies wait for an answer; a commit has its number after milliseconds
STEP_SECONDS = 0.005  # between two looks at how far this process's feed is
PAUSE_FIRST_SECONDS = 0.002
PAUSE_MAX_SECONDS = 0.1
WAITERS_MAX = 256  # each asks the database a few times


class Waiting:
    """Those of one process."""

    def __init__(self, reads: Reads, position: Callable[[], int], wait_seconds: float = WAIT_SECONDS) -> None:
        """`position` is the last commit that this process's subscribers have been given."""
        self._reads = reads
        self._position = position
        self._wait_seconds = wait_seconds
        self._waiters: Counter[Hashable] = Counter()  # of each client that has some

    async def until_passed(self, awaited: Awaited, client: Hashable, *, is_to_be_delivered: bool = False) -> int:
        """Its position, once it is in the tables, or was given to this process's subscribers as well.

        Of what changed nothing that is a position behind which it doesn't come. Raises WaitTimedOutError;
        QueryInvalidError, PositionForeignError and TransactionAbortedError for what will never come; and
        ReadsBusyError: a client may have half of the places that the others leave, so there is always one for another.
        """
        if self._waiters[client] * 2 >= WAITERS_MAX - self._waiters.total() + self._waiters[client]:
            raise ReadsBusyError
        self._waiters[client] += 1
        try:
            async with asyncio.timeout(self._wait_seconds) as limit:
                pause = PAUSE_FIRST_SECONDS
                while (number := await self._number(awaited)) is None:
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, PAUSE_MAX_SECONDS)
                while is_to_be_delivered and self._position() < number:  # noqa: ASYNC110 - seldom, and not for long
                    await asyncio.sleep(STEP_SECONDS)
                return number
        except TimeoutError:
            if not limit.expired():
                raise
            raise WaitTimedOutError(
                f"the feed has not passed it within {self._wait_seconds:g} s: ask again; /health/ready says whether "
                "commits are numbered"
            ) from None
        finally:
            self._waiters[client] -= 1
            if not self._waiters[client]:
                del self._waiters[client]

    async def _number(self, awaited: Awaited) -> int | None:
        """The commit with which it has passed; None if it hasn't."""
        if awaited.transaction is None:
            assert awaited.position is not None  # noqa: S101 - one of the two
            head = (await self._reads.place()).position
            if awaited.position > head:  # it was never told to anybody
                raise PositionForeignError(f"position {awaited.position} is ahead of the last commit, {head}")
            return awaited.position
        state = await self._reads.transaction_state(awaited.transaction)
        if state["number"] is not None:
            number: int = state["number"]
            return number
        if not state["is_over"]:
            return None  # it is at work, or has just ended
        if state["status"] == "aborted":
            raise TransactionAbortedError(f"transaction {awaited.transaction} was rolled back: nothing will come of it")
        # Without changes and events it gets no number; nor has it one any more, if it is older than what is kept.
        return None if state["has_rows"] else (await self._reads.place()).position
