"""The one writer of commit numbers. Runs in a thread of its own, so that no busy step can starve it.

It knows connections and the log, and nothing of readers or subscribers: they learn of new numbers from
the NOTIFY that commits with them; those of this process also by the fast path (feed/fast_path.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import asyncpg

from tidelog.backoff import Backoff
from tidelog.errors import EpochError
from tidelog.numbering.doorbell import ANSWER_TIMEOUT_SECONDS, Doorbell, doorbell_strangers
from tidelog.numbering.expiry import Expiry
from tidelog.numbering.housekeeper import Housekeeper
from tidelog.numbering.standby import Standby, SupersededError, sequencer_strangers
from tidelog.store.deadline import deadline
from tidelog.store.epoch import enter_epoch, server_of
from tidelog.store.failure import CONNECTION_ERRORS
from tidelog.store.holders import SEQUENCER_NAME
from tidelog.store.log import FEED_SETTINGS, LIFT_TRANSACTION_TIMEOUT, Numbering
from tidelog.store.retention import Retention

if TYPE_CHECKING:
    from tidelog.store.connecting import Connector

logger = logging.getLogger("tidelog.sequencer")

CLOSE_TIMEOUT_SECONDS = 2.0

# Awake: the pause grows from here while nothing comes and a long writer keeps the doorbell's lock.
PAUSE_MIN_SECONDS = 0.0005
PAUSE_MAX_SECONDS = 0.025
# Between looks at what others have to do with: the queue of NOTIFYs; and the lock, if it is done without.
LOOK_AROUND_SECONDS = 1.0
# Rings in a row without a quiet moment between, after which polling is cheaper for everybody than ringing.
RINGS_BEFORE_AWAKE = 3
# Rings in a row for which nothing was there. Some are honest (the commit was numbered before its bell came); more are a
# flood, which is answered at the pace of polling.
FALSE_ALARMS_MAX = 10


class FastPath(Protocol):
    """A way past the database to somebody in this process, for small commits. Called in the sequencer's thread."""

    @property
    def rows_max(self) -> int:
        """How many rows of what is numbered next it would take."""
        ...

    def put(self, rows: Sequence[Any], head: int, epoch: str, server: str) -> None:
        """Commits that `server` numbered together, the last of them `head`, as rows of the log: all that they have."""
        ...


class Sequencer:
    """Numbers commits while it is the one; otherwise stands by to take over."""

    def __init__(
        self, connect: Connector, retention: Retention | None = None, fast_path: FastPath | None = None
    ) -> None:
        self._connect = connect
        self._fast_path = fast_path
        self._housekeeper = Housekeeper(connect, retention or Retention())
        self._expiry = Expiry(connect)
        self._backoff = Backoff()
        self._strangers = {"sequencer_lock": sequencer_strangers(), "doorbell_lock": doorbell_strangers()}
        self.trouble: str | None = "not started"  # what keeps it from working; None when it numbers or stands by

    @property
    def warnings(self) -> dict[str, str]:
        """By name, what is wrong and yet keeps nothing from being numbered."""
        return {name: strangers.trouble for name, strangers in self._strangers.items() if strangers.trouble}

    async def run(self) -> None:
        """Work until cancelled, through every loss of the connection."""
        while True:
            try:
                await self._run_on_one_connection()
            except EpochError as error:
                self.trouble = f"{error.code}: {error}"
                logger.error("%s: %s", error.code, error)
            except asyncpg.UniqueViolationError:
                # We were taken for frozen, and somebody numbers in our place. Or we number without the lock,
                # and its holder woke up. One of the two goes on.
                logger.warning("another process has given these numbers: standing by")
            except SupersededError as error:
                logger.warning("%s: standing by", error)
            except CONNECTION_ERRORS as error:
                self.trouble = f"{type(error).__name__}: {error}"
                logger.warning("connection lost, trying again: %s", self.trouble)
            except Exception as error:  # a bug of ours must not end the feed of everybody, nor go unseen
                self.trouble = f"{type(error).__name__}: {error}"
                logger.exception("the sequencer failed, trying again")
            await self._backoff.wait()

    async def _run_on_one_connection(self) -> None:
        connection = await self._connect(**FEED_SETTINGS, application_name=SEQUENCER_NAME)
        try:
            with deadline(connection, ANSWER_TIMEOUT_SECONDS):
                await connection.execute(LIFT_TRANSACTION_TIMEOUT)
            self.trouble = None
            standby = Standby(connection, self._strangers["sequencer_lock"])
            await standby.until_needed()
            with deadline(connection, ANSWER_TIMEOUT_SECONDS):
                epoch = await enter_epoch(connection)
                server = await server_of(connection)
            logger.info("numbering commits")
            async with self._housekeeping():
                await self._number_forever(connection, standby, epoch, server)
        finally:
            # Politely, so that the lock is free at once for the next; close() ends a dead connection itself.
            with contextlib.suppress(*CONNECTION_ERRORS):
                await connection.close(timeout=CLOSE_TIMEOUT_SECONDS)

    @contextlib.asynccontextmanager
    async def _housekeeping(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(one.run()) for one in (self._housekeeper, self._expiry)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _number_forever(
        self, connection: asyncpg.Connection[Any], standby: Standby, epoch: str, server: str
    ) -> None:
        with deadline(connection, ANSWER_TIMEOUT_SECONDS):
            numbering = await Numbering.load(connection)
        queue = numbering.queue
        doorbell = Doorbell(connection, self._strangers["doorbell_lock"])
        pause = PAUSE_MIN_SECONDS
        rings = false_alarms = 0
        loop, look_around_at = asyncio.get_running_loop(), 0.0
        while True:
            if loop.time() >= look_around_at:
                look_around_at = loop.time() + LOOK_AROUND_SECONDS
                await standby.confirm()
                with deadline(connection, ANSWER_TIMEOUT_SECONDS):
                    await queue.look(connection)
            was_rung = doorbell.rung
            # Take the lock, clear the bell, read, wait: in this order, or a ring is lost.
            doorbell.clear()
            rows_max = 0 if self._fast_path is None else self._fast_path.rows_max
            with deadline(connection, ANSWER_TIMEOUT_SECONDS):
                numbered = await numbering.advance(connection, tell_rows_max=rows_max)
            self._backoff.reset()
            if self._fast_path is not None and numbering.rows:
                self._fast_path.put(numbering.rows, numbering.number, epoch, server)
            false_alarms = false_alarms + was_rung if not numbered else 0
            if false_alarms > FALSE_ALARMS_MAX:
                await asyncio.sleep(PAUSE_MAX_SECONDS)
            if doorbell.armed and queue.is_crowded:
                await doorbell.disarm()  # no writer shall ring: in a full queue none that rings can commit
                pause = PAUSE_MIN_SECONDS
            elif doorbell.armed:
                if not doorbell.rung:
                    rings = 0
                    await doorbell.wait()
                    continue
                rings += 1
                if rings >= RINGS_BEFORE_AWAKE:
                    await doorbell.disarm()
                    pause = PAUSE_MIN_SECONDS
            elif numbered:
                pause = PAUSE_MIN_SECONDS
            elif not queue.is_crowded and await doorbell.arm():
                rings = 0
            else:
                await asyncio.sleep(pause)
                pause = min(pause * 2, PAUSE_MAX_SECONDS)


class SequencerThread:
    """Runs a Sequencer on an event loop of its own, in a thread of its own."""

    def __init__(
        self, connect: Connector, retention: Retention | None = None, fast_path: FastPath | None = None
    ) -> None:
        self.sequencer = Sequencer(connect, retention, fast_path)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="tidelog-sequencer", daemon=True)
        self._task: asyncio.Task[None] | None = None

    @property
    def trouble(self) -> str | None:
        """What keeps it from working; None when it numbers or stands by."""
        if self._thread.ident is not None and not self._thread.is_alive():
            return "its thread has ended"
        return self.sequencer.trouble

    def start(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread.start()

    def stop(self) -> None:
        """Stop and wait for the thread; its lock is free when this returns."""
        assert self._loop is not None  # noqa: S101 - started
        self._loop.call_soon_threadsafe(self._cancel)
        self._thread.join()

    def _run(self) -> None:
        assert self._loop is not None  # noqa: S101 - started
        asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(self.sequencer.run())
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        # As asyncio.run does: connections that were closed last close in the loop's next turns.
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
