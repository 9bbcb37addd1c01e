"""Standing by to become the sequencer: taking over from one that is dead, or frozen, and from none at all.

A dead sequencer's lock is free. A frozen one (its process is stopped, its network gone) keeps it, keep-alives
or not, while changes wait for their numbers; its backend is ended. And anybody with a connection can take the lock:
only a holder that is a sequencer counts, others are ended too. What can't be ended is ignored.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import asyncpg

from tidelog.numbering.doorbell import ANSWER_TIMEOUT_SECONDS
from tidelog.numbering.strangers import Strangers
from tidelog.store.backlog import Backlog
from tidelog.store.deadline import deadline
from tidelog.store.holders import SEQUENCER_LOCK, Holder, read_holders
from tidelog.store.queries import load

if TYPE_CHECKING:
    Connection = asyncpg.Connection[Any]

logger = logging.getLogger("tidelog.sequencer")

TAKE = (
    f"select pg_try_advisory_lock(1953064044, {SEQUENCER_LOCK})"  # only tried: a request that waits holds back vacuum
)
END_FROZEN = load("end_frozen")

POLL_SECONDS = 0.25  # how soon another process takes over from a dead one
HOLDERS_POLL_SECONDS = 1.0  # between looks at who has the lock: pg_locks stops all who lock anything, for microseconds
# A healthy sequencer asks something every second. With two looks, and the backend's end, it is under 5 s in all.
FROZEN_AFTER = timedelta(seconds=3)
# While a stranger has the lock, changes that wait so long have no sequencer: one that works numbers in milliseconds.
# The rest is chance, so that of several processes one comes first; the others see the head move, and stay.
WITHOUT_LOCK_AFTER_SECONDS = 1.0
WITHOUT_LOCK_SPREAD_SECONDS = 0.5


class SupersededError(Exception):
    """Another sequencer has the lock that we number without."""


class Standby:
    """Watches the sequencer of the moment on the connection that is to be the next one's."""

    def __init__(self, connection: Connection, strangers: Strangers | None = None) -> None:
        self._connection = connection
        self._backlog = Backlog()
        self._strangers = strangers or sequencer_strangers()
        self._look_at_holders_at = 0.0  # by the monotonic clock
        self._without_lock_after = WITHOUT_LOCK_AFTER_SECONDS + random.uniform(0, WITHOUT_LOCK_SPREAD_SECONDS)  # noqa: S311 - jitter, not a secret
        self._ignored: frozenset[int | None] = frozenset()  # pids of those that have the lock while we do without

    async def until_needed(self) -> None:
        """Return when this process shall number: its connection has the lock, or it is known to be without.

        Without the lock numbering is still safe: the unique keys of streams.commit let only one of two go on, and the
        other is a standby again. `confirm` then tells when the lock is to be had.
        """
        while not await self._take():
            if await self._does_without():
                return
            await asyncio.sleep(POLL_SECONDS)

    async def confirm(self) -> None:
        """To be asked every second by a sequencer at work: takes the lock if it does without and can have it.

        Raises SupersededError if another sequencer has it.
        """
        if not self._ignored:
            return
        if await self._take():
            self._ignored = frozenset()
            logger.warning("this process has the sequencer's lock again")
            return
        holding = [holder for holder in await self._read_holders() if holder.granted]
        if any(holder.is_sequencer and holder.pid not in self._ignored for holder in holding):
            raise SupersededError("another process has the sequencer's lock")
        self._strangers.tell([holder for holder in holding if not holder.is_sequencer], "numbering goes on without it")
        self._ignored |= {holder.pid for holder in holding}

    async def _take(self) -> bool:
        with deadline(self._connection, ANSWER_TIMEOUT_SECONDS):
            is_ours: bool = await self._connection.fetchval(TAKE)
        if is_ours:
            self._strangers.tell([], "")
        return is_ours

    async def _read_holders(self) -> list[Holder]:
        self._look_at_holders_at = time.monotonic() + HOLDERS_POLL_SECONDS
        with deadline(self._connection, ANSWER_TIMEOUT_SECONDS):
            return await read_holders(self._connection, SEQUENCER_LOCK)

    async def _does_without(self) -> bool:
        """The lock is not to be had: whether this process shall number all the same."""
        with deadline(self._connection, ANSWER_TIMEOUT_SECONDS):
            await self._backlog.look(self._connection)
        if not self._backlog.waits and time.monotonic() < self._look_at_holders_at:
            return False
        holders = await self._read_holders()
        holding = [holder for holder in holders if holder.granted]
        strangers = [holder for holder in holders if not holder.is_sequencer]
        if any(holder.granted for holder in strangers):
            is_needed = await self._drive_out(strangers)
        else:
            self._strangers.tell([], "")
            is_needed = self._backlog.waits and bool(holding) and await self._end_frozen(holding[0])
        if is_needed:
            self._ignored = frozenset(holder.pid for holder in holding)
        return is_needed

    async def _drive_out(self, strangers: list[Holder]) -> bool:
        """End those who hold the lock, and those who would have it next; returns whether to go on without it.

        It is not waited for that they end: one may be stopped, or come back as often as it is ended.
        """
        with deadline(self._connection, ANSWER_TIMEOUT_SECONDS):
            await self._strangers.drive_out(self._connection, strangers)
        return self._backlog.waiting_seconds >= self._without_lock_after

    async def _end_frozen(self, holder: Holder) -> bool:
        """End the sequencer's backend if it does nothing; returns whether to go on without the lock."""
        is_overdue = self._backlog.waiting_seconds >= FROZEN_AFTER.total_seconds()
        try:
            with deadline(self._connection, ANSWER_TIMEOUT_SECONDS):
                is_gone = await self._connection.fetchval(END_FROZEN, holder.pid, FROZEN_AFTER, is_overdue)
        except asyncpg.InsufficientPrivilegeError as error:
            logger.warning(
                "the sequencer is frozen, and this role may not end its backend (%s); numbering without its lock. "
                "Let all server processes use one role, or grant pg_signal_backend and pg_read_all_stats",
                error,
            )
            return True
        if is_gone is None:
            return False
        if is_gone:
            logger.warning("the sequencer was frozen; its backend %d was ended", holder.pid)
            return False  # whoever tries first has the lock now
        logger.warning("the sequencer is frozen, its backend %d can't be ended; numbering without its lock", holder.pid)
        return True


def sequencer_strangers() -> Strangers:
    return Strangers("the sequencer's lock", "numbering goes on without it")
